"""Tokens computed for tenants here, by windows of time, as the branch's fair shares add them up.

What a tenant had in the last SHARE_SECONDS is taken as its present window, and of the one before the part that still
lies within; the error is at most how unevenly the older window was filled.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from edge.index.index import SHARE_SECONDS

MAX_TENANTS = 10_000
_Cell = tuple[int, str]


def windows(now: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """The present window and the one before, each with the part of it that counts; `now` in seconds since the epoch."""
    present, passed = divmod(now, SHARE_SECONDS)
    return (int(present), 1.0), (int(present) - 1, 1.0 - passed / SHARE_SECONDS)


class Shares:
    """Counts by window and tenant (however it is written in the index), in memory bounded by MAX_TENANTS."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        self._counts: OrderedDict[_Cell, int] = OrderedDict()
        self._dirty: set[_Cell] = set()

    def count(self, tenant: str, tokens: int) -> None:
        cell = (windows(self._clock())[0][0], tenant)
        self._counts[cell] = self._counts.get(cell, 0) + tokens
        self._counts.move_to_end(cell)
        self._dirty.add(cell)
        self._forget(cell[0] - 1)

    def of(self, tenant: str) -> float:
        """Tokens of the last SHARE_SECONDS."""
        return sum(part * self._counts.get((window, tenant), 0) for window, part in windows(self._clock()))

    def take_changed(self) -> dict[_Cell, int]:
        """(window, tenant) -> tokens, of what changed since the last take: whole counts, so that twice does no harm."""
        changed, self._dirty = self._dirty, set()
        return {cell: self._counts[cell] for cell in sorted(changed) if cell in self._counts}

    def mark_all_changed(self) -> None:
        """Whoever took the changes has lost them: give everything again."""
        self._dirty = set(self._counts)

    def _forget(self, before: int) -> None:
        """What is of no window that counts, or was longest unheard of where tenants are too many."""
        while self._counts and (len(self._counts) > MAX_TENANTS or next(iter(self._counts))[0] < before):
            self._dirty.discard(self._counts.popitem(last=False)[0])
