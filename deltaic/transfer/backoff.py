"""Trying again: how long to wait, and when to stop. Randomness and waiting are arguments: tests need no clock."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import RemoteError
from deltaic.store.errors import DiskFull
from deltaic.transfer.errors import LineLost

_log = structlog.get_logger(__name__)

_PASSES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL})


def may_pass(error: DeltaicError) -> bool:
    """Whether the same call may work soon: a cut or garbled line, a node that is stopping or busy; not a full disk."""
    busy = error.code is Code.RESOURCE_EXHAUSTED and isinstance(error, RemoteError) and error.reason != DiskFull.reason
    return busy or error.code in _PASSES


@dataclass(frozen=True, slots=True)
class Retry:
    """How a transfer goes on after a failure."""

    failures: int = 8
    """Failures in a row, without one byte between them, after which it gives up."""
    first_delay: float = 0.1
    """Seconds."""
    longest_delay: float = 5.0
    """Seconds."""
    random: Callable[[], float] = random.random
    """Numbers from 0 to 1."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Backoff:
    """Delays that double from `first` to `longest` seconds, each spread over its upper half at random.

    The spread keeps a branch's nodes from coming back to a restarted center in one wave.
    """

    def __init__(self, first: float, longest: float, spread: Callable[[], float]) -> None:
        """`spread` returns numbers from 0 to 1."""
        self._first = first
        self._longest = longest
        self._spread = spread
        self.failures = 0

    def next_delay(self) -> float:
        """Seconds to wait after one more failure."""
        whole = min(self._longest, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return whole * (0.5 + 0.5 * self._spread())

    def reset(self) -> None:
        """Something worked: the next failure is the first again."""
        self.failures = 0


class Attempts:
    """The failures of calls over one line: a cut that ends several of them counts once."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._backoff = Backoff(retry.first_delay, retry.longest_delay, retry.random)
        self._lock = asyncio.Lock()
        self.waits = 0
        """How many times the line failed so far; a stream notes it when it starts."""

    def progress(self) -> None:
        """A byte arrived."""
        self._backoff.reset()

    async def failed(self, error: DeltaicError, waits_at_start: int) -> None:
        """Wait before the next attempt. Raises LineLost after too many failures in a row without progress."""
        async with self._lock:
            if self.waits != waits_at_start:
                return  # another stream met the same cut and has waited for it
            self.waits += 1
            delay = self._backoff.next_delay()
            if self._backoff.failures >= self._retry.failures:
                raise LineLost(
                    f"gave up after {self._backoff.failures} attempts in a row without progress: {error.message}",
                    hint="what has arrived is kept, and the next attempt goes on from there",
                ) from error
            _log.debug("transfer.cut", error=error.message, delay=round(delay, 3), failures=self._backoff.failures)
            await self._retry.sleep(delay)
