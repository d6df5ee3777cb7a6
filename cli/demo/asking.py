"""One request as its client sees it: the answer, who gave it, and the error if there was one."""

import time
from contextlib import aclosing
from dataclasses import dataclass

from cli.chat import generate
from deltaic.errors import DeltaicError, Unavailable
from deltaic.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class Reply:
    """Times in seconds; `error` is None when it was answered whole, and only then has `completion` come."""

    text: str
    completion: inference_pb2.Completion
    first_token: float
    total: float
    error: DeltaicError | None = None


async def ask_node(node: str, request: inference_pb2.GenerateRequest, seconds: float) -> Reply:
    """Ask `node` (HOST:PORT) and read to the end; never raises a DeltaicError, the reply has it."""
    started = time.monotonic()
    first, text, end = 0.0, "", inference_pb2.Completion()
    error: DeltaicError | None = Unavailable("the stream ended without its last message", hint="ask again")
    try:
        async with aclosing(generate(node, request, seconds)) as events:
            async for event in events:
                first = first or time.monotonic() - started
                text += event.text
                if event.HasField("completion"):
                    end, error = event.completion, None
    except DeltaicError as failure:
        error = failure
    return Reply(text, end, first, time.monotonic() - started, error)
