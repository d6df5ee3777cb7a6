"""Answers of this edge: repeated where they are the same every time, and noted for the branch's index."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deltaic.names import RevisionName, parse_target
from deltaic.v1 import inference_pb2
from edge.answer import Answers
from edge.index.index import BranchIndex
from edge.index.prefixes import PrefixBook
from edge.index.secret import IndexSecret
from edge.response_cache import ResponseCache
from edge.route import Target
from edge.statistics import Outcome, RequestStatistics


class NotedAnswers:
    """Answers as `Answers` does, whose errors it raises."""

    def __init__(
        self,
        node: str,
        answers: Answers,
        cache: ResponseCache,
        revision_of: Callable[[Target], RevisionName | None],
        index: BranchIndex,
        prefixes: PrefixBook,
        secret: IndexSecret,
        statistics: RequestStatistics,
    ) -> None:
        """`revision_of` says which revision this edge would answer a target with, where it has one."""
        self._node = node
        self._answers = answers
        self._cache = cache
        self._revision_of = revision_of
        self._index = index
        self._prefixes = prefixes
        self._secret = secret
        self._statistics = statistics

    async def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream an answer within `seconds`: the one of before, or a new one."""
        target, started = parse_target(request.model), time.monotonic()
        revision = self._revision_of(target)
        if revision is not None and (again := await self._cache.lookup(request, revision)) is not None:
            self._statistics.record(target.model, Outcome.ANSWERED)
            self._index.changed()
            for piece in again:
                yield piece
            return
        recording = self._cache.recording(request, revision) if revision is not None else None
        remaining = seconds - (time.monotonic() - started)
        async with aclosing(self._answers.generate(request, remaining)) as pieces:
            async for piece in pieces:
                if recording is not None:
                    recording.add(piece)
                if piece.HasField("completion") and piece.completion.node == self._node:
                    self._note(request, piece.completion)
                yield piece

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        answer = await self._answers.embed(request, seconds)
        if answer.node == self._node:
            self._index.count_served(request.tenant, answer.usage.prompt_tokens)
        return answer

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        return await self._answers.count_tokens(request, seconds)

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:
        return await self._answers.list_models(seconds)

    def _note(self, request: inference_pb2.GenerateRequest, done: inference_pb2.Completion) -> None:
        """A worker of this edge has computed an answer."""
        used = done.usage
        self._index.count_served(request.tenant, used.prompt_tokens - used.cached_tokens + used.completion_tokens)
        self._prefixes.read(RevisionName.parse(done.revision), self._secret.prefixes(request))
