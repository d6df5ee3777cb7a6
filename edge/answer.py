"""Answering one request: decide, lease or pass on, stream, count."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deltaic.engine.errors import NotServed, WorkerFailed
from deltaic.engine.host import Served
from deltaic.engine.listing import listed
from deltaic.errors import Code, DeltaicError
from deltaic.names import parse_target
from deltaic.v1 import inference_pb2
from edge.branch.trying import Trying
from edge.branch.ways import Ways
from edge.errors import NotHeldHere
from edge.index.index import BranchIndex
from edge.places import Places
from edge.route import LoadThenLocal, Local, Target, Way
from edge.statistics import Outcome, RequestStatistics

_CLIENTS_FAULT = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.FAILED_PRECONDITION,
        Code.PERMISSION_DENIED,
        Code.UNAUTHENTICATED,
        Code.OUT_OF_RANGE,
        Code.CANCELLED,
    }
)

_Stream = AsyncGenerator[inference_pb2.GenerateResponse, None]


class Answers:
    """Answers with what this edge holds, and passes the rest on to a neighbour or to the center."""

    def __init__(
        self,
        ways: Ways,
        trying: Trying,
        places: Places,
        serving: Callable[[], list[Served]],
        index: BranchIndex,
        statistics: RequestStatistics,
    ) -> None:
        """`serving` lists what is loaded here."""
        self._ways = ways
        self._trying = trying
        self._places = places
        self._serving = serving
        self._index = index
        self._statistics = statistics

    async def generate(self, request: inference_pb2.GenerateRequest, seconds: float) -> _Stream:
        """Stream an answer within `seconds`.

        Raises BadName, SensitiveNotAllowed, EscalationForbidden, NotCompleteYet, CenterUnreachable, NeighbourLost,
        NeighbourLacks, NoTimeLeft, HotSetFull, and what a worker, a neighbour or the center answers with.
        """
        target = parse_target(request.model)
        outcome: Outcome | None = None
        try:
            async with aclosing(self._answered(target, request, _now() + seconds)) as pieces:
                async for way, piece in pieces:
                    outcome = _outcome_of(way)
                    yield piece
        except DeltaicError as error:
            outcome = None if _is_clients_fault(error) else Outcome.FAILED
            raise
        except Exception:
            outcome = Outcome.FAILED
            raise
        finally:
            self._count(target, outcome)

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """Vectors within `seconds`. Decided as `generate` is, and raises as that does."""
        target = parse_target(request.model)
        outcome: Outcome | None = Outcome.FAILED
        try:
            way, answer = await self._embedded(target, request, _now() + seconds)
            outcome = _outcome_of(way)
        except DeltaicError as error:
            outcome = None if _is_clients_fault(error) else Outcome.FAILED
            raise
        except asyncio.CancelledError:
            outcome = None
            raise
        else:
            return answer
        finally:
            self._count(target, outcome)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """Count with a model that is held here; nothing is passed on, so it needs no label. Raises NotHeldHere."""
        target = parse_target(request.model)
        until = _now() + seconds
        try:
            return await self._places.count_tokens(self._ways.here(target), request, until)
        except NotServed:
            return await self._places.count_tokens(self._ways.here(target), request, until)

    async def list_models(self, _seconds: float) -> inference_pb2.ListModelsResponse:
        """What is loaded now."""
        return listed(self._serving())

    async def _answered(
        self, target: Target, request: inference_pb2.GenerateRequest, until: float
    ) -> AsyncGenerator[tuple[Way, inference_pb2.GenerateResponse], None]:
        """Pieces, each with the way that it came."""
        hedge, began = request.priority != inference_pb2.PRIORITY_LOW, False

        def open_(way: Way) -> _Stream:
            return self._places.generate(way, target, request, until)

        for attempt in range(2):
            ways = await self._ways.of(target, request, until - _now())
            try:
                async with aclosing(self._trying.stream(ways, open_, until - _now(), hedge=hedge)) as pieces:
                    async for piece in pieces:
                        began = True
                        yield piece
            except (NotServed, NotHeldHere):
                # A switch, an eviction or a removal came between the decision and the lease: decide again, once.
                if began or attempt:
                    raise
            else:
                return

    async def _embedded(
        self, target: Target, request: inference_pb2.EmbedRequest, until: float
    ) -> tuple[Way, inference_pb2.EmbedResponse]:
        async def call(way: Way) -> inference_pb2.EmbedResponse:
            return await self._places.embed(way, target, request, until)

        ways = await self._ways.of(target, request, until - _now())
        try:
            return await self._trying.call(ways, call, until - _now())
        except (NotServed, NotHeldHere):
            ways = await self._ways.of(target, request, until - _now())
            return await self._trying.call(ways, call, until - _now())

    def _count(self, target: Target, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._statistics.record(target.model, outcome)
        self._index.changed()


def _outcome_of(way: Way) -> Outcome:
    return Outcome.ANSWERED if isinstance(way, Local | LoadThenLocal) else Outcome.FORWARDED


def _is_clients_fault(error: DeltaicError) -> bool:
    """A model that is here and does not start is this edge's own failure, whatever its code."""
    return error.code in _CLIENTS_FAULT and not isinstance(error, WorkerFailed)


def _now() -> float:
    return asyncio.get_running_loop().time()
