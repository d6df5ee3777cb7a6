"""What all open requests may hold together, so that the number of clients does not decide about memory."""

from deltaic.errors import ResourceExhausted
from deltaic.gateway.errors import GatewayBusy
from deltaic.rpc.http_status import RETRY_KEY

_RETRY_MS = 1_000


class Budget:
    """Counts requests and the bytes of their bodies."""

    def __init__(self, requests: int, body_bytes: int) -> None:
        """At most this many requests at once, and this many bytes of bodies in all."""
        self._requests_left = requests
        self._bytes_left = body_bytes

    def enter(self) -> None:
        """Count a request in. Raises GatewayBusy."""
        if self._requests_left <= 0:
            raise _busy("too many requests are open at this node")
        self._requests_left -= 1

    def take(self, body_bytes: int) -> None:
        """Count bytes of a body in. Raises GatewayBusy."""
        if body_bytes > self._bytes_left:
            raise _busy("the requests that are open at this node hold all the memory that they may")
        self._bytes_left -= body_bytes

    def leave(self, body_bytes: int) -> None:
        """Count a request out, with what was taken for its body."""
        self._requests_left += 1
        self._bytes_left += body_bytes


def _busy(message: str) -> ResourceExhausted:
    return GatewayBusy(message, hint="try again in a moment", **{RETRY_KEY: str(_RETRY_MS)})
