"""InferenceService of the device: messages in, domain calls, messages out."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from deltaic.engine.host import ModelHost
from deltaic.engine.relay import count_tokens
from deltaic.names import ChannelName, parse_target
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from device.answer import Answers

DEFAULT_SECONDS = 120.0
"""The deadline of a call that came without one."""

_Context = grpc.aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Only Generate may ask another node; a prompt to count and the list of models never leave."""

    def __init__(self, answers: Answers, host: ModelHost) -> None:
        self._answers = answers
        self._host = host

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: _Context
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        async with aclosing(self._answers.generate(request, _seconds(context))) as stream:
            async for response in stream:
                yield response

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: _Context
    ) -> inference_pb2.CountTokensResponse:
        async with self._host.lease(str(parse_target(request.model))) as worker:
            return await count_tokens(worker, request, _seconds(context))

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002  # gRPC hands over both
        context: _Context,  # noqa: ARG002
    ) -> inference_pb2.ListModelsResponse:
        served = sorted(self._host.serving(), key=lambda one: one.key)
        return inference_pb2.ListModelsResponse(
            models=[
                inference_pb2.ServedModel(
                    model=str(one.revision.of_model),
                    channel=one.key if _is_channel(one.key) else "",
                    revision=str(one.revision),
                    context_tokens=one.context_tokens,
                    adapters=one.adapters,
                )
                for one in served
            ]
        )


def _is_channel(key: str) -> bool:
    return isinstance(parse_target(key), ChannelName)


def _seconds(context: _Context) -> float:
    remaining = context.time_remaining()
    return DEFAULT_SECONDS if remaining is None else remaining
