"""How nodes that stand beside each other fetch a revision over their common line once: one of them at a time."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.supplier import Supplier


class Turns(Protocol):
    """Who fetches when."""

    def turn(
        self, state: ChannelState, wire_bytes: Callable[[], int]
    ) -> AbstractAsyncContextManager[Sequence[Supplier]]:
        """Wait for this node's turn, and hold it while the context lasts.

        Gives the nodes nearby that have all of the revision: none means that it is this node's turn to fetch it over
        the line. `wire_bytes` grows while bytes come: a turn whose bytes stand still passes to others.
        """
        ...

    def obtained(self, state: ChannelState) -> None:
        """Its file is complete here: others may fetch it from this node."""
        ...

    def failed(self, near: Sequence[Supplier]) -> None:
        """They did not give what they were to have: leave them out for a while."""
        ...


class NoTurns:
    """A node that stands alone."""

    @asynccontextmanager
    async def turn(
        self,
        state: ChannelState,  # noqa: ARG002  # the protocol's names
        wire_bytes: Callable[[], int],  # noqa: ARG002
    ) -> AsyncIterator[Sequence[Supplier]]:
        yield ()

    def obtained(self, state: ChannelState) -> None:
        """Nobody asks."""

    def failed(self, near: Sequence[Supplier]) -> None:
        """There are none."""
