"""The parts of an edge that know its branch, made once and told what they need of the edge."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc

from deltaic.runtime.lifetime import beside
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.source import Source
from edge.branch.breakers import Breakers
from edge.branch.hedging import Hedges
from edge.branch.lines import Lines
from edge.branch.neighbours import Neighbours
from edge.branch.peers import Peers
from edge.branch.pulling import BranchTurns
from edge.branch.trying import Trying
from edge.branch.ways import Here, Policy, Ways
from edge.index.index import BranchIndex
from edge.index.secret import IndexSecret


class Branch:
    """Lines to the other edges, what is known of them, and what became of requests that were passed on."""

    def __init__(
        self,
        index: BranchIndex,
        connect: Callable[[str], grpc.aio.Channel],
        peers: Callable[[], Sequence[str]],
        own_address: Callable[[], str],
        *,
        hedge_share: float,
    ) -> None:
        """`connect` opens a channel to HOST:PORT, `peers` are the addresses of the settings, which may change."""
        self._index = index
        self.lines = Lines(connect)
        self.breakers = Breakers()
        self.hedges = Hedges(hedge_share)
        self._peers = Peers(peers, self.lines)
        self.neighbours = Neighbours(index, self._peers, own_address)
        self.trying = Trying(self.breakers, self.hedges, time.monotonic)

    def ways(self, here: Here, line_up: Callable[[], bool], policy: Policy, secret: IndexSecret) -> Ways:
        """What decides about requests."""
        return Ways(here, self.neighbours, line_up, self.breakers, self.lines, policy, secret, time.monotonic)

    def turns(
        self, source: Callable[[str, grpc.aio.Channel], Source], on_obtained: Callable[[ChannelState], None]
    ) -> BranchTurns:
        """What decides who fetches over the line; `source` reads from the edge at an address."""
        return BranchTurns(self._index, self.neighbours, self.lines, source, on_obtained)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask the peers now and then, and close all lines at the end."""
        try:
            async with beside(self._peers.run()):
                yield
        finally:
            await self.lines.close()
