"""Channels to the other edges of the branch: opened at the first use, kept while used, closed when they are idle."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

IDLE_SECONDS = 120.0
MOST_LINES = 64
_NEWEST = 0.3


@dataclass(slots=True)
class _Line:
    channel: grpc.aio.Channel
    users: int = 0
    idle_since: float = 0.0


@dataclass(slots=True)
class Lines:
    """By address. `connect` opens a channel; `clock` gives seconds. Lives on one event loop."""

    connect: Callable[[str], grpc.aio.Channel]
    clock: Callable[[], float] = time.monotonic
    _open: dict[str, _Line] = field(default_factory=dict)
    _round_trips: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def used(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """A channel that stays open until the context ends."""
        line = self._open.get(address)
        if line is None:
            line = self._open[address] = _Line(self.connect(address))
        line.users += 1
        try:
            yield line.channel
        finally:
            line.users -= 1
            line.idle_since = self.clock()
            await self._close_idle()

    def measured(self, address: str, seconds: float) -> None:
        """A small call took this long."""
        before = self._round_trips.get(address, seconds)
        self._round_trips[address] = before + _NEWEST * (seconds - before)

    def round_trip(self, address: str) -> float:
        """Seconds of a small call; 0 where none was measured."""
        return self._round_trips.get(address, 0.0)

    @property
    def addresses(self) -> list[str]:
        """Of what is open."""
        return list(self._open)

    async def close(self) -> None:
        """Close all, in use or not."""
        lines, self._open = list(self._open.values()), {}
        await asyncio.gather(*(line.channel.close() for line in lines))

    async def _close_idle(self) -> None:
        now = self.clock()
        idle = sorted((line.idle_since, address) for address, line in self._open.items() if not line.users)
        most = max(len(self._open) - MOST_LINES, 0)
        for number, (since, address) in enumerate(idle):
            if number < most or now - since > IDLE_SECONDS:
                self._round_trips.pop(address, None)
                await self._open.pop(address).channel.close()
