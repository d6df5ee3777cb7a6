"""Whether a worker fits into memory, asked before it is started: one that does not would take others down with it."""

from collections.abc import Callable

import psutil

from deltaic.engine.control_group import MemoryGroup
from deltaic.engine.errors import NotEnoughMemory


def available_memory() -> int:
    """Bytes that a new process could take now: of the machine, and of the control group that this one is in."""
    return min(int(psutil.virtual_memory().available), MemoryGroup.of().room())


class MemoryBudget:
    """What the workers of a node have been granted. Belongs to one event loop.

    With a limit, all grants together stay below it. Without, a worker must fit into what is available beside those that
    are still starting: what has started is seen in what is available.
    """

    def __init__(self, limit: int = 0, available: Callable[[], int] = available_memory) -> None:
        """`limit` in bytes; 0 is what `available` says each time."""
        self._limit = limit
        self._available = available
        self._granted: dict[str, int] = {}
        self._starting: set[str] = set()

    def grant(self, owner: str, needed: int, what: str) -> None:
        """Count `needed` bytes for a worker that is about to start. Raises NotEnoughMemory, which grants nothing."""
        room = self._room()
        if needed > room:
            raise NotEnoughMemory(
                f"{what} needs about {needed:,} bytes of memory and {max(0, room):,} are available",
                hint="serve fewer models, lower engine.slots or engine.context_tokens, or take a smaller quantisation"
                + (", or raise engine.memory_bytes" if self._limit else ""),
                needed_bytes=str(needed),
                available_bytes=str(max(0, room)),
            )
        self._granted[owner] = needed
        self._starting.add(owner)

    def started(self, owner: str) -> None:
        """What it needs is taken by now."""
        self._starting.discard(owner)

    def give_back(self, owner: str) -> None:
        """The process is gone, or was never started."""
        self._granted.pop(owner, None)
        self._starting.discard(owner)

    def _room(self) -> int:
        if self._limit:
            return self._limit - sum(self._granted.values())
        return self._available() - sum(self._granted[each] for each in self._starting)
