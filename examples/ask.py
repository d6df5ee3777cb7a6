"""Ask a model and print its answer while it is being written.

python examples/ask.py 127.0.0.1:7410 assistant "Who are you?"
"""

import sys

import grpc

from deltaic.v1 import inference_pb2, inference_pb2_grpc


def main(target: str, model: str, question: str) -> None:
    request = inference_pb2.GenerateRequest(
        model=model,
        messages=[inference_pb2.ChatMessage(role="user", content=question)],
        # What is not said to be public is answered where it is asked, and passed on to nobody.
        sensitivity=inference_pb2.SENSITIVITY_PUBLIC,
    )
    with grpc.insecure_channel(target) as channel:
        for piece in inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=60):
            print(piece.text, end="", flush=True)
    end = piece.completion
    print(f"\n[{end.usage.completion_tokens} tokens by {end.node}, {end.revision}]")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except grpc.RpcError as error:
        sys.exit(f"{sys.argv[1]}: {error.details()}")
