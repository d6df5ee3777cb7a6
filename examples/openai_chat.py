"""Ask a model through the `openai` package and print its answer while it is being written.

python examples/openai_chat.py http://127.0.0.1:8080/v1 assistant "Who are you?"
"""

import sys

from openai import OpenAI, OpenAIError


def main(url: str, model: str, question: str) -> None:
    # Until callers are authenticated, the key only tells tenants apart: each has a fair share of the node.
    with OpenAI(base_url=url, api_key="anything") as client:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            stream=True,
            # What is not said to be public is answered where it is asked, and passed on to nobody.
            extra_headers={"X-Deltaic-Sensitivity": "public"},
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    made = (chunk.model_extra or {})["deltaic"]
    print(f"\n[by {made['node']}, {made['revision']}]")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except OpenAIError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
