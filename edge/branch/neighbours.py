"""The other edges of the branch that have a model: as the index shows them, and the peers of the settings beside it."""

from collections.abc import Callable

from deltaic.errors import DeltaicError
from deltaic.runtime.addresses import check_address
from edge.branch.peers import Peers
from edge.index.entries import Neighbour
from edge.index.index import BranchIndex
from edge.route import Target


class Neighbours:
    """Asks the index at most once for each question."""

    def __init__(self, index: BranchIndex, peers: Peers, own_address: Callable[[], str]) -> None:
        """`own_address` is how this edge is known to others: it is no neighbour of itself."""
        self._index = index
        self._peers = peers
        self._own_address = own_address

    async def of(self, target: Target) -> tuple[Neighbour, ...]:
        """Those that hold, or have loaded, what a target means, and can be reached. Costs one read of the index."""
        shown = [each for each in await self._index.neighbours(target) if _is_reachable(each.address)]
        known = {(each.address, each.revision) for each in shown}
        asked = [each for each in self._peers.of(target) if (each.address, each.revision) not in known]
        own = self._own_address()
        return tuple(each for each in (*shown, *asked) if each.address != own)


def _is_reachable(address: str) -> bool:
    """Others can write the index, so that what it says may be no address."""
    try:
        return bool(address) and bool(check_address(address))
    except DeltaicError:
        return False
