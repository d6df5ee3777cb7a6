"""Telling watchers that channels moved: a hub in the memory of one process.

A watcher keeps one state per channel, the newest, so a slow one costs no more memory than a fast one and skips what was
already replaced. States may arrive in any order (moves commit in one order and may be announced in another); the
version of a channel decides.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from center.errors import NodeStopping
from center.records import Channel
from deltaic.names import ChannelName


class Watcher:
    """One subscription. Offer it the present state after subscribing; nothing in between is lost."""

    def __init__(self, names: Sequence[ChannelName]) -> None:
        """`names` empty means all channels."""
        self._names = frozenset(names)
        self._pending: dict[ChannelName, Channel] = {}
        self._seen: dict[ChannelName, int] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def offer(self, channel: Channel) -> None:
        """Note a state, unless it is not watched or not newer than what is known."""
        if self._names and channel.name not in self._names:
            return
        if channel.version > self._seen.get(channel.name, -1):
            self._seen[channel.name] = channel.version
            self._pending[channel.name] = channel
            self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def states(self) -> AsyncIterator[Channel]:
        """What was offered, newest states only, for ever. Raises NodeStopping when the hub closes."""
        while True:
            await self._wake.wait()
            if self._closed:
                raise NodeStopping("the center is stopping", hint="watch again in a moment")
            self._wake.clear()
            while self._pending:
                yield self._pending.pop(next(iter(self._pending)))


class WatchHub:
    """Lives on the event loop: all methods are called there."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._closed = False

    @contextmanager
    def watching(self, names: Sequence[ChannelName]) -> Iterator[Watcher]:
        """Subscribe until the block ends. Raises NodeStopping."""
        if self._closed:
            raise NodeStopping("the center is stopping", hint="watch again in a moment")
        watcher = Watcher(names)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def announce(self, channel: Channel) -> None:
        """A channel moved, and the move is committed."""
        for watcher in self._watchers:
            watcher.offer(channel)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
