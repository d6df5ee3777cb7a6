"""Hedging: a second copy of a request at another place when the first place takes unusually long to begin.

Generating has no effect but its cost: either copy may answer, and the caller sees one of them only, the one whose first
piece comes first; the other is cancelled within a decode step. So every request may be hedged, but for those of low
priority, which nobody waits for. What it may cost is bounded: a share of all requests.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from deltaic.errors import DeltaicError

_KEPT = 256
_LEAST = 20
_MOST_SAVED = 4.0
_AHEAD = 16

Piece = TypeVar("Piece")
Open = Callable[[], AsyncGenerator[Piece, None]]


class Hedges:
    """When to hedge, and whether. Not for several threads."""

    def __init__(self, share: float) -> None:
        """At most this share of requests is sent twice; 0 hedges none."""
        self._share = share
        self._seconds: deque[float] = deque(maxlen=_KEPT)
        self._saved = 0.0
        self.hedged = 0

    def arrived(self, seconds: float) -> None:
        """A first piece came after so many seconds."""
        self._seconds.append(seconds)

    def asked(self) -> None:
        """One request more, which earns its share of a hedge; a quiet hour saves up no storm."""
        self._saved = min(self._saved + self._share, _MOST_SAVED)

    def after(self, expected: float) -> float | None:
        """Seconds without a first piece after which to hedge a request that is `expected` to take that long for it.

        The p95 of recent ones, or twice what was expected of this one; None when too little is known, or none is left.
        """
        if len(self._seconds) < _LEAST or self._saved < 1.0:
            return None
        return max(sorted(self._seconds)[round(0.95 * (len(self._seconds) - 1))], 2 * expected)

    def take(self) -> bool:
        """Spend one; whether there was one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        self.hedged += 1
        return True


class _Contender(Generic[Piece]):
    """One copy, in a task of its own, a few pieces ahead of whoever reads it."""

    def __init__(self, open_: Open[Piece]) -> None:
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue(_AHEAD)
        self._arrived = asyncio.Event()
        self.task = asyncio.create_task(self._pump(open_), name="contender")
        self.task.add_done_callback(lambda _: self._arrived.set())

    async def _pump(self, open_: Open[Piece]) -> None:
        async with aclosing(open_()) as pieces:
            async for piece in pieces:
                await self._pieces.put(piece)
                self._arrived.set()

    @property
    def began(self) -> bool:
        return not self._pieces.empty()

    @property
    def arrived(self) -> bool:
        """Whether a first piece has come, or the end."""
        return self.began or self.task.done()

    async def began_or_ended(self) -> None:
        await self._arrived.wait()

    async def rest(self) -> AsyncGenerator[Piece, None]:
        """All of it. Raises what the copy ended with."""
        while True:
            while not self._pieces.empty():
                yield self._pieces.get_nowait()
            if self.task.done():
                self.task.result()
                return
            self._arrived.clear()
            if self._pieces.empty() and not self.task.done():
                await self._arrived.wait()

    async def stop(self) -> None:
        """Cancel it, and return when it has ended; what it ended with is of no interest any more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def raced(
    first: Open[Piece],
    second: Open[Piece],
    after: float,
    *,
    goes_on: Callable[[DeltaicError], bool],
    may_hedge: Callable[[], bool],
) -> AsyncGenerator[Piece, None]:
    """Stream `first`; when nothing of it came in `after` seconds, and `may_hedge`, whichever of the two begins first.

    A first that ends before its first piece with an error that `goes_on` is followed by the second at once.
    """
    contenders = [_Contender(first)]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(after):
                await contenders[0].began_or_ended()
        if not contenders[0].arrived and not may_hedge():
            await contenders[0].began_or_ended()
        if not contenders[0].arrived or _failed(contenders[0], goes_on):
            contenders.append(_Contender(second))
        winner = await _winner(contenders, goes_on)
        for loser in contenders:
            if loser is not winner:
                await loser.stop()
        async with aclosing(winner.rest()) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        for contender in contenders:
            await contender.stop()


async def _winner(contenders: list[_Contender[Piece]], goes_on: Callable[[DeltaicError], bool]) -> _Contender[Piece]:
    """The first that begins, or the original when it ends in a way that is final; of failures the last one's.

    A copy that fails has lost: the original still runs, and its place may have what the copy's has not.
    """
    running = list(contenders)
    while True:
        waits = [asyncio.create_task(each.began_or_ended()) for each in running]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for each in list(running):
            excused = goes_on if each is contenders[0] else _any_error
            if each.began or (each.task.done() and (len(running) == 1 or not _failed(each, excused))):
                return each
            if each.task.done():
                running.remove(each)


def _failed(contender: _Contender[Piece], goes_on: Callable[[DeltaicError], bool]) -> bool:
    """Whether it ended before its first piece with an error that another place may not meet."""
    if contender.began or not contender.task.done() or contender.task.cancelled():
        return False
    error = contender.task.exception()
    return isinstance(error, DeltaicError) and goes_on(error)


def _any_error(_: DeltaicError) -> bool:
    return True
