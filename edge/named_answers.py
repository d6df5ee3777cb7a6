"""Names of models as clients write them, before anything is decided: tags become the revisions that they name."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from deltaic.gateway.answering import Answering
from deltaic.names import DEFAULT_CHANNEL, ChannelName, TagName, parse_asked
from deltaic.v1 import inference_pb2
from edge.tags import TagBook

_Request = TypeVar(
    "_Request", inference_pb2.GenerateRequest, inference_pb2.EmbedRequest, inference_pb2.CountTokensRequest
)


class NamedAnswers:
    """Answers as what is behind it does, and raises what `TagBook.resolve` does."""

    def __init__(self, answers: Answering, tags: TagBook, is_channel: Callable[[ChannelName], bool]) -> None:
        """`is_channel` says whether this edge knows a channel by a name; what it does not know may be a tag."""
        self._answers = answers
        self._tags = tags
        self._is_channel = is_channel

    async def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream an answer within `seconds`."""
        named = await self._named(request, seconds)
        async with aclosing(self._answers.generate(named, seconds)) as pieces:
            async for piece in pieces:
                yield piece

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """Vectors within `seconds`."""
        return await self._answers.embed(await self._named(request, seconds), seconds)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """Count with a model that is held here."""
        return await self._answers.count_tokens(await self._named(request, seconds), seconds)

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:
        """What is loaded now."""
        return await self._answers.list_models(seconds)

    async def _named(self, request: _Request, seconds: float) -> _Request:
        """The request with a channel or a revision as its model. Raises BadName, NotHeldHere, CenterUnreachable."""
        asked = parse_asked(request.model)
        if isinstance(asked, TagName):
            return _with_model(request, str(await self._tags.resolve(asked, seconds)))
        if isinstance(asked, ChannelName) and asked.channel != DEFAULT_CHANNEL and not self._is_channel(asked):
            tagged = await self._tags.perhaps(asked, seconds)
            return _with_model(request, str(tagged)) if tagged is not None else request
        return request


def _with_model(request: _Request, model: str) -> _Request:
    named = type(request)()
    named.CopyFrom(request)
    named.model = model
    return named
