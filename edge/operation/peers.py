"""Sources of models that may change while the edge runs: the center first, then the peers of the settings."""

from collections.abc import Callable, Sequence

import grpc

from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.settings import peer_source
from deltaic.transfer.source import Source
from edge.operation.counts import CountedSource, Counts


class PeerSources:
    """Keeps the one list that the follower reads, under one limit. Channels stay open for a peer that comes back."""

    def __init__(self, connect: Callable[[str], grpc.aio.Channel], limit: RateLimit, counts: Counts) -> None:
        self._connect = connect
        self._limit = limit
        self._counts = counts
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._sources: list[Source] = []
        self._fixed = 0
        self._in_use: tuple[str, ...] = ()

    def beside(self, *first: Source) -> Sequence[Source]:
        """The list, which begins with these for ever."""
        self._sources[:0] = [CountedSource(each, self._counts) for each in first]
        self._fixed += len(first)
        return self._sources

    @property
    def addresses(self) -> tuple[str, ...]:
        """The peers that are in use."""
        return self._in_use

    def use(self, addresses: Sequence[str]) -> None:
        """These are the peers from now on; a fetch that runs goes on with those that it began with."""
        for address in addresses:
            if address not in self._channels:
                self._channels[address] = self._connect(address)
        self._in_use = tuple(addresses)
        self._sources[self._fixed :] = [self.source(each, self._channels[each]) for each in addresses]

    def source(self, address: str, channel: grpc.aio.Channel) -> Source:
        """Any edge of the branch, under the one limit, its bytes counted."""
        return CountedSource(peer_source(address, channel, self._limit), self._counts)

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close()
