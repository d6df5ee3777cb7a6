"""Following a decision: one way after another until one begins to answer, or two at once where the first is slow."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from deltaic.engine.errors import WorkerFailed
from deltaic.errors import Code, DeltaicError
from edge.branch.breakers import Breaker, Breakers
from edge.branch.hedging import Hedges, raced
from edge.branch.ways import CENTER
from edge.errors import CenterUnreachable, NeighbourLost
from edge.route import Escalate, LoadThenLocal, Timed, ToNeighbour, Way

_OF_THE_PLACE = frozenset({"WORKER_FAILED", "NOT_ENOUGH_MEMORY", "NO_ADAPTER"})
_ENDED_A_WORKER = frozenset({"WORKER_DIED", "WORKER_HUNG", "WORKER_KILLED_FOR_MEMORY"})
_NEVER_FITS = "TOO_LARGE"
_AGAIN_MS = "500"

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


def another_may_answer(error: DeltaicError) -> bool:
    """Whether a failure before the first piece is one of the place, and not of the request.

    What ended one worker might end the next: that is said to the caller instead. Adapters lie beside the models of
    each node, so what one lacks another may have.
    """
    if error.reason in _ENDED_A_WORKER:
        return False
    if isinstance(error, WorkerFailed) or error.reason in _OF_THE_PLACE:
        return True
    return error.code is Code.UNAVAILABLE or (error.code is Code.RESOURCE_EXHAUSTED and error.reason != _NEVER_FITS)


class Trying:
    """Keeps breakers and hedges informed of what became of each attempt."""

    def __init__(self, breakers: Breakers, hedges: Hedges, clock: Callable[[], float]) -> None:
        self._breakers = breakers
        self._hedges = hedges
        self._clock = clock

    async def stream(
        self,
        ways: Sequence[Timed],
        open_: Callable[[Way], AsyncGenerator[Piece, None]],
        seconds: float,
        *,
        hedge: bool = False,
    ) -> AsyncGenerator[tuple[Way, Piece], None]:
        """The pieces of the first way that begins, with that way; `seconds` are left for all of them.

        `hedge` allows a second copy. Raises what the last way failed with, or the first that no other could help.
        """
        self._hedges.asked()
        after = self._hedges.after(ways[0].expected.first) if hedge and len(ways) > 1 and _is_ready(ways[1]) else None
        if after is None:
            pieces = self._in_turn(ways, open_, seconds)
        else:
            pieces = raced(
                lambda: self._attempt(ways[0].way, open_, None),
                lambda: self._in_turn(ways[1:], open_, seconds),
                after,
                goes_on=another_may_answer,
                may_hedge=self._hedges.take,
            )
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def call(
        self, ways: Sequence[Timed], call: Callable[[Way], Awaitable[Answer]], seconds: float
    ) -> tuple[Way, Answer]:
        """The answer of the first way that has one. Raises as `stream` does."""

        async def once(way: Way) -> AsyncGenerator[Answer, None]:
            yield await call(way)

        async with aclosing(self.stream(ways, once, seconds)) as answers:
            return await anext(answers)

    async def _in_turn(
        self, ways: Sequence[Timed], open_: Callable[[Way], AsyncGenerator[Piece, None]], seconds: float
    ) -> AsyncGenerator[tuple[Way, Piece], None]:
        until = self._clock() + seconds
        for number, timed in enumerate(ways, 1):
            is_last, began = number == len(ways), False
            patience = None if is_last else (until - self._clock()) / 2
            try:
                async with aclosing(self._attempt(timed.way, open_, patience)) as pieces:
                    async for piece in pieces:
                        began = True
                        yield piece
            except DeltaicError as error:
                if began or is_last or not another_may_answer(error):
                    raise
            else:
                return

    async def _attempt(
        self, way: Way, open_: Callable[[Way], AsyncGenerator[Piece, None]], patience: float | None
    ) -> AsyncGenerator[tuple[Way, Piece], None]:
        """One way. A neighbour from which nothing comes for `patience` seconds counts as lost."""
        breaker, began, told = self._breaker_of(way), self._clock(), False
        if breaker is not None and not breaker.begin(began):
            raise _left_alone(way)
        try:
            async with aclosing(open_(way)) as pieces:
                first = await _first_of(pieces, way, patience)
                if first is None:
                    return
                told = True
                self._hedges.arrived(self._clock() - began)
                if breaker is not None:
                    breaker.succeeded()
                yield way, first
                async for piece in pieces:
                    yield way, piece
        except DeltaicError as error:
            told = True
            if breaker is not None:
                self._tell(breaker, error)
            raise
        finally:
            if breaker is not None and not told:
                breaker.left()

    def _tell(self, breaker: Breaker, error: DeltaicError) -> None:
        """Only silence is a failure of the place; whoever refuses is there."""
        if isinstance(error, NeighbourLost | CenterUnreachable):
            breaker.failed(self._clock())
        elif error.code is Code.DEADLINE_EXCEEDED:
            breaker.left()
        else:
            breaker.succeeded()

    def _breaker_of(self, way: Way) -> Breaker | None:
        match way:
            case ToNeighbour():
                return self._breakers[way.address]
            case Escalate():
                return self._breakers[CENTER]
            case _:
                return None


async def _first_of(pieces: AsyncGenerator[Piece, None], way: Way, patience: float | None) -> Piece | None:
    """None of a place that answers with nothing at all."""
    if patience is None or not isinstance(way, ToNeighbour):
        return await anext(pieces, None)
    try:
        async with asyncio.timeout(patience):
            return await anext(pieces, None)
    except TimeoutError:
        raise NeighbourLost(
            f"{way.node} sent nothing for {patience:.1f} s", hint="send the request again", retry_after_ms=_AGAIN_MS
        ) from None


def _left_alone(way: Way) -> DeltaicError:
    """Another request is finding out at this moment whether the place is back."""
    said = {"hint": "send the request again", "retry_after_ms": _AGAIN_MS}
    if isinstance(way, ToNeighbour):
        return NeighbourLost(f"{way.node} did not answer of late", **said)
    return CenterUnreachable("the center did not answer of late", **said)


def _is_ready(timed: Timed) -> bool:
    """A hedge loads nothing: it would cost more than it could save."""
    way = timed.way
    return not (isinstance(way, LoadThenLocal) or (isinstance(way, ToNeighbour) and not way.loaded))
