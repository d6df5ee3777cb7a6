"""How the engine's tests ask: one key, one revision, small answers."""

from collections.abc import AsyncIterator
from typing import Any

from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate
from deltaic.engine.settings import EngineSettings
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2 as pb

KEY = "models/smollm2/channels/stable"
REVISION = RevisionName("smollm2", "sha256:" + "1" * 64)
NEXT_REVISION = RevisionName("smollm2", "sha256:" + "2" * 64)
SETTINGS = EngineSettings(slots=4, context_tokens=512, queue=4, threads=1)


def ask(text: str, *, max_tokens: int = 16, temperature: float = 0.0, **fields: Any) -> pb.GenerateRequest:
    """A chat of one message, greedy."""
    request = pb.GenerateRequest(messages=[pb.ChatMessage(role="user", content=text)], max_tokens=max_tokens, **fields)
    request.sampling.temperature = temperature
    return request


def endless(max_tokens: int = 480) -> pb.GenerateRequest:
    """Raw text that the model goes on counting for as long as it may."""
    return pb.GenerateRequest(
        prompt="1 2 3 4 5 6 7 8 9 10 11 12", max_tokens=max_tokens, sampling=pb.Sampling(temperature=0)
    )


async def answer(
    host: ModelHost, request: pb.GenerateRequest, remaining: float = 90, key: str | RevisionName = KEY
) -> tuple[str, pb.Completion]:
    """The whole text and how it ended."""
    text, completion = "", pb.Completion()
    async with host.lease(key) as leased:
        async for response in generate(leased, request, remaining):
            text += response.text
            completion = response.completion
    return text, completion


async def rest_of(stream: AsyncIterator[pb.GenerateResponse]) -> int:
    """Read a stream to its end; how many responses there were."""
    return len([response async for response in stream])
