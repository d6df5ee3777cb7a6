"""Whether requests should come here: what gRPC health, /healthz and `deltaic edge status` say alike.

the server as a whole ("") and InferenceService     SERVING when requests should come here
ContentService, RegistryService, FleetService       SERVING while this edge runs, draining or not
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from deltaic.names import ChannelName


@dataclass(frozen=True, slots=True)
class Readiness:
    """Why requests should not come; nothing when they should."""

    reasons: tuple[str, ...] = ()

    @property
    def serving(self) -> bool:
        return not self.reasons

    def body(self) -> dict[str, object]:
        """What /healthz says."""
        return {"status": "ok" if self.serving else "not serving", "reasons": list(self.reasons)}


def readiness(
    followed: Collection[ChannelName], answered: Callable[[str], bool], *, draining: bool, stopping: bool
) -> Readiness:
    """Pure. `answered` says whether a channel has a worker. One channel of several is enough: the others come."""
    reasons = []
    if stopping:
        reasons.append("this edge is stopping")
    if draining:
        reasons.append("this edge is draining (deltaic edge drain --undo ends it)")
    if followed and not any(answered(str(channel)) for channel in followed):
        reasons.append(f"none of the {len(followed)} followed channels is answered yet")
    return Readiness(tuple(reasons))


class Health:
    """Tells the gRPC health service what `now` says, at every change."""

    def __init__(
        self,
        now: Callable[[], Readiness],
        tell: Callable[[bool, Sequence[str]], Awaitable[None]],
        services: Sequence[str],
    ) -> None:
        """`tell` is `Server.set_serving`; `services` are those that follow readiness."""
        self.now = now
        self._tell = tell
        self._services = services
        self._told: bool | None = None

    async def update(self) -> None:
        """Say it, if it is news."""
        serving = self.now().serving
        if serving != self._told:
            self._told = serving
            await self._tell(serving, self._services)
