"""How far an update is, how fast, and how long it will still take: numbers that never run backwards. Pure."""

import math
from dataclasses import dataclass

_SMOOTHED_OVER_SECONDS = 5.0
_LEAST_RATE = 1.0


@dataclass(frozen=True, slots=True)
class Reached:
    """Bytes of one attempt at an update, or of all of them."""

    full: int = 0
    """Of the files of the target; 0 before its manifest is here."""
    reused: int = 0
    """Of the files, that needed no fetching."""
    fetched: int = 0
    """Of chunks, verified."""
    manifest: int = 0
    """Of the manifest, when it was fetched."""
    wire: int = 0
    """Over the line, for all of it."""
    arriving: int = 0
    """Of chunks that have begun to arrive."""
    made: int = 0
    """Of the files, that deltas made."""

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.full - self.reused - self.fetched - self.made - self.arriving)


class Account:
    """The numbers of one update over all attempts at it.

    What an earlier attempt of this process fetched is found again by the next one and stays fetched; it becomes
    neither reused nor nothing.
    """

    def __init__(self) -> None:
        self._before = Reached()
        self._shown = Reached()

    def next_attempt(self) -> None:
        """The last attempt is over without success; another begins from nothing that it knows of."""
        self._before = self._shown

    def add(self, now: Reached) -> Reached:
        """What to show while the present attempt has reached `now`."""
        before = self._before
        full = now.full or before.full
        fetched, made = before.fetched + now.fetched, before.made + now.made
        reused = max(before.reused, now.reused - before.fetched - before.made)
        self._shown = Reached(
            full,
            min(reused, max(0, full - fetched - made)),  # a file that was damaged meanwhile is fetched a second time
            fetched,
            max(before.manifest, now.manifest),
            before.wire + now.wire,
            now.arriving,
            made,
        )
        return self._shown


class Pace:
    """How fast a count grows: its mean over the last seconds, the recent ones weighing more."""

    def __init__(self) -> None:
        self._count = 0
        self._at: float | None = None
        self._grown = 0.0
        self._seconds = 0.0

    def observe(self, count: int, now: float) -> None:
        """The count is this, at this second of a clock that never runs backwards."""
        if self._at is not None:
            passed = max(0.0, now - self._at)
            fade = math.exp(-passed / _SMOOTHED_OVER_SECONDS)
            self._grown = self._grown * fade + max(0, count - self._count)
            self._seconds = self._seconds * fade + passed
        self._count = max(self._count, count)
        self._at = now

    @property
    def rate(self) -> float:
        """A second; 0 when it stands still or is not known yet."""
        rate = self._grown / self._seconds if self._seconds > 0 else 0.0
        return rate if rate >= _LEAST_RATE else 0.0

    def seconds_for(self, reached: Reached) -> float:
        """Until what is left of an update has come over the line, packed as well as what has come; 0 when unknown."""
        if not self.rate:
            return 0.0
        come = reached.fetched + reached.manifest + reached.arriving + reached.made
        packed = min(1.0, reached.wire / come) if come else 1.0
        return reached.left * packed / self.rate
