"""The protocol of a branch's index: hints that make answers quicker, and that no answer depends on.

Reads are bounded by READ_SECONDS and say "nothing known" (an empty tuple or mapping, None) when the index is slow, gone
or full of garbage; while it is known to be gone they do not ask at all. Reads that are asked in one turn of the event
loop, by asyncio.gather, share one round trip. Writes only note what is to be written, and never wait or fail; a
task of the index sends them, and sends all of it again after a loss.

So a request costs at most two round trips: its reads, gathered, before it is answered; its writes, in the background.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, Self

from deltaic.names import ChannelName, RevisionName
from edge.index.entries import Lease, LeaseHeld, Neighbour, NodeEntry

READ_SECONDS = 0.01
NODE_TTL = 15
SHARE_SECONDS = 300


class BranchIndex(Protocol):
    """One node's view of its branch, and what the branch sees of it, while `running`. Lives on one event loop."""

    @property
    def up(self) -> bool:
        """Whether reads are asked at present."""
        ...

    def running(self, entry: Callable[[], NodeEntry]) -> AbstractAsyncContextManager[Self]:
        """Show this node, whose truth of the moment `entry` gives. Raises IndexUnreachable, at start only."""
        ...

    def changed(self) -> None:
        """The node's entry or its counts are new: write soon."""
        ...

    async def neighbours(self, target: ChannelName | RevisionName) -> tuple[Neighbour, ...]:
        """Other nodes that hold or have loaded a revision, or that answer for a channel (with whatever revision)."""
        ...

    async def rates(self, models: Collection[str]) -> Mapping[str, float]:
        """Requests a second that the whole branch had for each model (the bare word) in the last minutes.

        Of this node alone while the index is not known; so is `served`.
        """
        ...

    def count_served(self, tenant: str, tokens: int) -> None:
        """Count tokens that this node has computed for a tenant."""
        ...

    async def served(self, tenants: Collection[str]) -> Mapping[str, float]:
        """Tokens that all nodes of the branch computed for each tenant in the last SHARE_SECONDS, this one included."""
        ...

    async def cached(self, revision: RevisionName, key: str) -> bytes | None:
        """A value stored under 64 hexadecimal digits. Others can write it: the caller authenticates it."""
        ...

    def store(self, revision: RevisionName, key: str, value: bytes) -> None:
        """Keep a value, within the bounds that the index was given; older ones make room, and it may be lost."""
        ...

    def drop_revision(self, revision: RevisionName) -> None:
        """Forget the values of a revision, unless a neighbour still has it."""
        ...

    async def lease(self, name: str, seconds: float) -> Lease | LeaseHeld | None:
        """Take or renew what one node of the branch has at a time; None when the index cannot say: go on without.

        A renewed lease has a new token. `seconds` is how long the others wait for a holder that died.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Let others have it, if it is still ours."""
        ...
