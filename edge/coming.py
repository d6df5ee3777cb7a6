"""How far this edge is with the channels that it follows, in words for callers that it cannot answer yet."""

from collections.abc import Callable, Collection, Iterable

from deltaic.names import ChannelName
from deltaic.v1 import fleet_pb2
from edge.route import Target

_Phase = fleet_pb2.ModelState.Phase
_MOST_DETAIL = 300


class Coming:
    """What the follower says of each followed channel."""

    def __init__(
        self,
        followed: Collection[ChannelName],
        states: Callable[[], Iterable[fleet_pb2.ModelState]],
        online: Callable[[], bool],
    ) -> None:
        """`states` as `Follower.states` gives them; `online` says whether the center was heard of late."""
        self._followed = frozenset(followed)
        self._states = states
        self._online = online

    def follow(self, followed: Collection[ChannelName]) -> None:
        """These are followed from now on."""
        self._followed = frozenset(followed)

    def __call__(self, target: Target) -> str | None:
        """How far it is; None for what is no followed channel."""
        if target not in self._followed:
            return None
        for state in self._states():
            if state.channel == str(target):
                return said_of(state)
        return "nothing is published on it" if self._online() else "the center has not been reached"


def said_of(state: fleet_pb2.ModelState) -> str:
    """What the state of a channel means for somebody who waits for it."""
    detail = state.detail[:_MOST_DETAIL]
    if state.phase == _Phase.PHASE_FAILED:
        return f"the update failed: {detail}" if detail else "the update failed"
    if state.phase != _Phase.PHASE_FETCHING:
        return "its worker is starting"
    progress = state.progress
    done = min(progress.reused_bytes + progress.fetched_bytes, progress.full_bytes)
    share = f"fetching, {100 * done // progress.full_bytes} %" if progress.full_bytes else "fetching begins"
    return f"{share}, waiting: {detail}" if detail else share
