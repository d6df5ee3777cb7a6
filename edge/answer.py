"""Answering one request: decide, lease or pass on, stream, count."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import cast

import structlog

from deltaic.engine.errors import NotServed, WorkerFailed
from deltaic.engine.listing import listed
from deltaic.engine.relay import LeasedWorker, count_tokens, embed, generate
from deltaic.errors import Code, DeltaicError
from deltaic.names import parse_target
from deltaic.v1 import inference_pb2
from edge.center_line import CenterLine
from edge.errors import CenterUnreachable, HotSetFull, NotHeldHere, NoTimeLeft
from edge.hot.hot_set import HotSet
from edge.index.index import BranchIndex
from edge.mirror import Mirror
from edge.route import Escalate, LoadThenLocal, Local, Refuse, Route, Target, decide
from edge.statistics import Outcome, RequestStatistics

_log = structlog.get_logger(__name__)

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
    """Answers with what this edge holds, and passes the rest on to the center."""

    def __init__(
        self,
        hot_set: HotSet,
        mirror: Mirror,
        coming: Callable[[Target], str | None],
        line: CenterLine,
        index: BranchIndex,
        statistics: RequestStatistics,
    ) -> None:
        """`coming` says how far this edge is with a channel that it follows; None for all else."""
        self._hot_set = hot_set
        self._mirror = mirror
        self._coming = coming
        self._line = line
        self._index = index
        self._statistics = statistics

    async def generate(self, request: inference_pb2.GenerateRequest, seconds: float) -> _Stream:
        """Stream an answer within `seconds`.

        Raises BadName, SensitiveNotAllowed, NotCompleteYet, CenterUnreachable, NoTimeLeft, HotSetFull, and what a
        worker or the center answers with.
        """
        target = parse_target(request.model)
        outcome: Outcome | None = None
        try:
            async with AsyncExitStack() as stack:
                until = _now() + seconds
                leased = await self._leased(stack, target, request.sensitivity, until)
                outcome = Outcome.FORWARDED if leased is None else Outcome.ANSWERED
                if leased is None:
                    pieces = self._line.generate(target, request, until - _now())
                else:
                    pieces = cast("_Stream", generate(leased, request, until - _now()))
                await stack.enter_async_context(aclosing(pieces))
                async for piece in pieces:
                    yield piece
        except DeltaicError as error:
            outcome = None if _is_clients_fault(error) else Outcome.FAILED
            if isinstance(error, CenterUnreachable):
                await self._name_neighbours(error, target)
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
            async with AsyncExitStack() as stack:
                until = _now() + seconds
                leased = await self._leased(stack, target, request.sensitivity, until)
                if leased is None:
                    answer = await self._line.embed(target, request, until - _now())
                    outcome = Outcome.FORWARDED
                else:
                    answer = await embed(leased, request, until - _now())
                    outcome = Outcome.ANSWERED
                return answer
        except DeltaicError as error:
            outcome = None if _is_clients_fault(error) else Outcome.FAILED
            if isinstance(error, CenterUnreachable):
                await self._name_neighbours(error, target)
            raise
        except asyncio.CancelledError:
            outcome = None
            raise
        finally:
            self._count(target, outcome)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """Count with a model that is held here; a prompt without a label is not passed on. Raises NotHeldHere."""
        target = parse_target(request.model)
        async with AsyncExitStack() as stack:
            until = _now() + seconds
            # Nothing is passed on here, so it needs no label.
            leased = await self._leased(stack, target, inference_pb2.SENSITIVITY_PUBLIC, until, escalate=False)
            if leased is None:
                raise NotHeldHere(f"{target} is not served by this edge", hint="`deltaic models` lists what is")
            return await count_tokens(leased, request, until - _now())

    async def list_models(self, _seconds: float) -> inference_pb2.ListModelsResponse:
        """What is loaded now."""
        return listed(self._hot_set.serving())

    async def _leased(
        self,
        stack: AsyncExitStack,
        target: Target,
        sensitivity: "inference_pb2.Sensitivity.ValueType",
        until: float,
        *,
        escalate: bool = True,
    ) -> LeasedWorker | None:
        """The worker that answers, leased until `stack` ends; None when the center should."""
        line_up = self._line.up if escalate else True
        try:
            try:
                return await self._enter(stack, self._decide(target, sensitivity, line_up), until)
            except (NotServed, NotHeldHere):
                # A switch, an eviction or a removal came between the decision and the lease.
                return await self._enter(stack, self._decide(target, sensitivity, line_up), until)
        except (HotSetFull, WorkerFailed) as error:
            if not (escalate and line_up and sensitivity == inference_pb2.SENSITIVITY_PUBLIC):
                raise
            _log.info("answer.not_here", target=str(target), reason=error.reason)
            return None

    def _decide(self, target: Target, sensitivity: "inference_pb2.Sensitivity.ValueType", line_up: bool) -> Route:
        return decide(
            target,
            sensitivity,
            loaded=self._hot_set.loaded,
            held=self._mirror.held,
            coming=self._coming,
            line_up=line_up,
        )

    async def _enter(self, stack: AsyncExitStack, route: Route, until: float) -> LeasedWorker | None:
        match route:
            case Refuse(error):
                raise error
            case Escalate():
                return None
            case Local(key):
                return await stack.enter_async_context(self._hot_set.lease(key))
            case LoadThenLocal(revision):
                try:
                    async with asyncio.timeout_at(until):
                        return await stack.enter_async_context(self._hot_set.load(revision))
                except TimeoutError:
                    raise NoTimeLeft(
                        f"the deadline passed while {revision} was loading", hint="ask again, with more time"
                    ) from None

    async def _name_neighbours(self, error: CenterUnreachable, target: Target) -> None:
        if neighbours := await self._index.neighbours(target):
            names = sorted({neighbour.node for neighbour in neighbours})
            error.hint = f"{', '.join(names)} in this branch answers for it"

    def _count(self, target: Target, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._statistics.record(target.model, outcome)
        self._index.changed()


def _is_clients_fault(error: DeltaicError) -> bool:
    """A model that is here and does not start is this edge's own failure, whatever its code."""
    return error.code in _CLIENTS_FAULT and not isinstance(error, WorkerFailed)


def _now() -> float:
    return asyncio.get_running_loop().time()
