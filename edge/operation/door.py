"""The door that every request comes through: closed while draining, and every visit counted, content unseen."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from deltaic.errors import Code, DeltaicError
from deltaic.gateway.answering import Answering
from deltaic.names import parse_target
from deltaic.v1 import inference_pb2
from edge.errors import EdgeDraining, SensitiveNotAllowed
from edge.operation.counts import Counts, Ended, Place
from edge.spool.journal import ANSWERED, FORWARDED, REFUSED
from edge.spool.tally import Tally

RETRY_MS = 1_000
_INVALID = frozenset(
    {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}
)
_REFUSALS = frozenset({"CENTER_UNREACHABLE", "NOT_COMPLETE_YET", "EDGE_STOPPING", EdgeDraining.reason})
_POLICY = frozenset({Code.PERMISSION_DENIED, Code.UNAUTHENTICATED})

_Answer = inference_pb2.Completion | inference_pb2.EmbedResponse


class _Visit:
    """One request, until it has left."""

    def __init__(self) -> None:
        self.answer: _Answer | None = None


class Door:
    """Answers as what is behind it does, and raises EdgeDraining too."""

    def __init__(self, answers: Answering, node: str, counts: Counts, tally: Tally) -> None:
        """`node` is this edge's name: who is named in an answer otherwise is a neighbour."""
        self._answers = answers
        self._node = node
        self._counts = counts
        self._tally = tally
        self.draining = False
        self.in_flight = 0

    async def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream an answer within `seconds`."""
        with self._visit(request.model) as visit:
            async with aclosing(self._answers.generate(request, seconds)) as pieces:
                async for piece in pieces:
                    if piece.HasField("completion"):
                        visit.answer = piece.completion
                    yield piece

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """Vectors within `seconds`."""
        with self._visit(request.model) as visit:
            visit.answer = await self._answers.embed(request, seconds)
            return visit.answer

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """Count; no answer of a model, so not counted as one."""
        self._check_open()
        return await self._answers.count_tokens(request, seconds)

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:
        """What is loaded now."""
        return await self._answers.list_models(seconds)

    @contextmanager
    def _visit(self, model: str) -> Iterator[_Visit]:
        visit = _Visit()
        self.in_flight += 1
        try:
            self._check_open()
            yield visit
        except DeltaicError as error:
            self._refused(model, error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._left(visit)
            raise
        except Exception:
            self._counts.requests[Ended.FAILED, Place.NOWHERE] += 1
            raise
        else:
            self._left(visit)
        finally:
            self.in_flight -= 1

    def _check_open(self) -> None:
        if self.draining:
            raise EdgeDraining(
                "this edge is draining and takes no new requests",
                hint="ask another edge of the branch, or this one again in a moment",
                retry_after_ms=str(RETRY_MS),
            )

    def _left(self, visit: _Visit) -> None:
        """Whoever goes away after the completion was answered."""
        if visit.answer is None:
            self._counts.requests[Ended.GONE, Place.NOWHERE] += 1
            return
        place = place_of(visit.answer, self._node)
        self._counts.requests[Ended.ANSWERED, place] += 1
        action, fact = (FORWARDED, "to") if place in (Place.CENTER, Place.NEIGHBOUR) else (ANSWERED, "place")
        self._tally.count(action, visit.answer.revision, fact, place.value)

    def _refused(self, model: str, error: DeltaicError) -> None:
        by_policy = error.code in _POLICY or error.reason == SensitiveNotAllowed.reason
        if by_policy:
            self._tally.count(REFUSED, _known(model), "reason", error.reason)
        refused = by_policy or error.reason in _REFUSALS or error.code is Code.RESOURCE_EXHAUSTED
        if error.code is Code.CANCELLED:
            ended = Ended.GONE
        elif refused:
            ended = Ended.REFUSED
        else:
            ended = Ended.INVALID if error.code in _INVALID else Ended.FAILED
        self._counts.requests[ended, Place.NOWHERE] += 1


def place_of(answer: _Answer, node: str) -> Place:
    """Where an answer was made, as it says itself."""
    if getattr(answer, "from_cache", False):
        return Place.CACHE
    if answer.answered_by == inference_pb2.NODE_ROLE_CENTER:
        return Place.CENTER
    return Place.LOCAL if answer.node == node else Place.NEIGHBOUR


def _known(model: str) -> str:
    """The full name of what was asked for; words that are none are a client's, and stay out of the log."""
    try:
        return str(parse_target(model))
    except DeltaicError:
        return "unknown"
