"""A limit on what a node fetches, in bytes a second and by time of day: a token bucket that all its fetches share.

The wall clock only chooses the window of the schedule; tokens are counted by a clock that never jumps.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable

from deltaic.transfer.rate_schedule import RateSchedule

_BURST_SECONDS = 0.25
_LONGEST_SLEEP_SECONDS = 1.0


class TokenBucket:
    """Pure. Bytes are taken when they have come, and whoever took them waits until they are allowed: first come first.

    Idleness saves up at most a quarter of a second of tokens.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._allowed = 0.0
        self._at: float | None = None

    def take(self, count: int) -> int:
        """Bytes came; the ticket for them, which later tickets are not before."""
        self._taken += count
        return self._taken

    def seconds_until(self, ticket: int, now: float, rate: float | None) -> float:
        """How long the holder of a ticket still has to wait at `rate` bytes a second; None is without limit."""
        passed = max(0.0, now - self._at) if self._at is not None else 0.0
        self._at = now
        if rate is None:
            self._allowed = max(self._allowed, float(self._taken))
            return 0.0
        self._allowed = min(self._allowed + passed * rate, self._taken + rate * _BURST_SECONDS)
        if ticket <= self._allowed:
            return 0.0
        return (ticket - self._allowed) / rate if rate else float("inf")


class RateLimit:
    """What all sources of a node hold themselves to."""

    def __init__(
        self,
        schedule: RateSchedule,
        *,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], dt.time] = lambda: dt.datetime.now().astimezone().time(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock` gives seconds and never jumps; `time_of_day` is local and may."""
        self._schedule = schedule
        self._clock = clock
        self._time_of_day = time_of_day
        self._sleep = sleep
        self._bucket = TokenBucket()

    @property
    def rate(self) -> int | None:
        """Bytes a second at this time of day; None is unlimited."""
        return self._schedule.rate_at(self._time_of_day())

    def change(self, schedule: RateSchedule) -> None:
        """From now on this is the limit, for what is on its way, too."""
        self._schedule = schedule

    def take(self, count: int) -> int:
        """Bytes have come; the ticket to wait with. With none it asks whether more may come now."""
        return self._bucket.take(count)

    async def wait(self, ticket: int, *, at_most: float) -> bool:
        """Wait until the bytes of a ticket are allowed; False when that is not so after `at_most` seconds."""
        until = self._clock() + at_most
        while True:
            now = self._clock()
            seconds = self._bucket.seconds_until(ticket, now, self.rate)
            if seconds <= 0.0:
                return True
            if now >= until:
                return False
            # In short steps: the schedule may allow more in a moment.
            await self._sleep(min(seconds, until - now, _LONGEST_SLEEP_SECONDS))
