"""A branch pulls a revision over its line once: who fetches it from the center, and who waits to have it from there.

One edge holds the lease "pull:HEX" while it fetches, and renews it while bytes come. The others wait until an edge of
the branch holds the whole file, and then fetch it from all that do: by a delta where one of them has it on its shelf,
as the one that fetched by a delta does. When the holder of the lease dies, it runs out and the next one takes its turn:
that costs seconds, and the bytes that the dead one had. An edge that has fetched lets its lease run out instead of
giving it back, so that the others have seen its file before they could take it. The token of a lease guards nothing
here: two that fetch at once write to disks of their own.

Without an index everybody fetches for itself, from the center and from the peers of the settings.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import structlog

from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.source import Source
from deltaic.transfer.supplier import Supplier
from edge.branch.lines import Lines
from edge.branch.neighbours import Neighbours
from edge.index.entries import Lease, LeaseHeld
from edge.index.index import BranchIndex

_log = structlog.get_logger(__name__)

LEASE_SECONDS = 10.0
_LOOK_SECONDS = 0.5
_STILL_SECONDS = 30.0
_FIRST_BYTE_SECONDS = 330.0
"""A center may take five minutes to make a delta before it sends a byte."""
_LEFT_OUT_SECONDS = 30.0
_MOST_SOURCES = 8

_Wire = Callable[[], int]


class BranchTurns:
    """The turns of one edge. Lives on one event loop."""

    def __init__(
        self,
        index: BranchIndex,
        neighbours: Neighbours,
        lines: Lines,
        source: Callable[[str, grpc.aio.Channel], Source],
        on_obtained: Callable[[ChannelState], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`source` reads from the edge at an address; `on_obtained` shows a complete revision to the branch."""
        self._index = index
        self._neighbours = neighbours
        self._lines = lines
        self._source = source
        self._on_obtained = on_obtained
        self._clock = clock
        self._left_out: dict[str, float] = {}

    @asynccontextmanager
    async def turn(self, state: ChannelState, wire_bytes: _Wire) -> AsyncIterator[Sequence[Supplier]]:
        """As `deltaic.transfer.turns.Turns` says."""
        async with AsyncExitStack() as stack:
            found = await self._turn_or_near(state, stack)
            if not isinstance(found, Lease):
                yield found
                return
            renewing = asyncio.create_task(self._renew(found, wire_bytes), name=f"renew {found.name}")
            try:
                yield ()
            except BaseException:
                await _ended(renewing)
                await self._index.release(found)
                raise
            await _ended(renewing)

    def obtained(self, state: ChannelState) -> None:
        self._on_obtained(state)
        self._index.changed()

    def failed(self, near: Sequence[Supplier]) -> None:
        now = self._clock()
        self._left_out = {address: until for address, until in self._left_out.items() if until > now}
        self._left_out |= {each.address: now + _LEFT_OUT_SECONDS for each in near}

    async def _turn_or_near(self, state: ChannelState, stack: AsyncExitStack) -> Lease | Sequence[Supplier]:
        """The lease, or who has the file; nobody when there is no index to ask."""
        name, waited_for = f"pull:{state.revision.hex}", ""
        while True:
            if near := await self._near(state, stack):
                return near
            lease = await self._index.lease(name, LEASE_SECONDS)
            match lease:
                case None:
                    return ()
                case Lease():
                    _log.info("branch.pulls", revision=str(state.revision), token=lease.token)
                    return lease
                case LeaseHeld(node=node, seconds=seconds):
                    if node != waited_for:
                        _log.info("branch.waits", revision=str(state.revision), fetched_by=node)
                        waited_for = node
                    await asyncio.sleep(min(max(seconds, 0.05), _LOOK_SECONDS))

    async def _near(self, state: ChannelState, stack: AsyncExitStack) -> list[Supplier]:
        """Edges that hold the whole file; their channels stay open as long as `stack`."""
        now = self._clock()
        holders = [each for each in await self._neighbours.of(state.revision) if each.held]
        near: list[Supplier] = []
        for address in dict.fromkeys(each.address for each in holders):
            if self._left_out.get(address, 0.0) <= now and len(near) < _MOST_SOURCES:
                channel = await stack.enter_async_context(self._lines.used(address))
                near.append(Supplier(channel, self._source(address, channel), address))
        return near

    async def _renew(self, lease: Lease, wire_bytes: _Wire) -> None:
        """Until cancelled, or nothing comes any more: then somebody else may have better luck."""
        bytes_, since = wire_bytes(), self._clock()
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            now, so_far = self._clock(), wire_bytes()
            if so_far != bytes_:
                bytes_, since = so_far, now
            if now - since > (_STILL_SECONDS if so_far else _FIRST_BYTE_SECONDS):
                _log.warning("branch.pull_stands_still", lease=lease.name, next="another edge may take its turn")
                return
            if isinstance(await self._index.lease(lease.name, LEASE_SECONDS), LeaseHeld):
                return


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
