"""The line to the center, for requests that only the center can answer."""

from collections.abc import AsyncGenerator, Callable

import grpc

from deltaic.errors import Code, DeltaicError
from deltaic.v1 import inference_pb2
from edge.branch.forwarding import Forwarding, Meaning
from edge.route import Target, line_cut

_DOWN = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class CenterLine:
    """Passes requests on. What comes back is the center's, errors included."""

    def __init__(self, channel: grpc.aio.Channel, name: str, coming: Callable[[Target], str | None]) -> None:
        """`name` is for people: "center 10.0.0.1:7400"; `coming` as `edge.route.decide` takes it."""
        self._coming = coming
        self._channel = channel
        self._forwarding = Forwarding(channel, name, metadata=())

    @property
    def up(self) -> bool:
        """Whether there is a connection, or none was tried. Begins to connect when none is there; never waits."""
        return self._channel.get_state(try_to_connect=True) not in _DOWN

    def generate(
        self, target: Target, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream the center's answer.

        Raises CenterUnreachable, NoTimeLeft, and what the center answers with. Closing this cancels the call there.
        """
        return self._forwarding.generate(request, seconds, self._meaning(target))

    async def embed(
        self, target: Target, request: inference_pb2.EmbedRequest, seconds: float
    ) -> inference_pb2.EmbedResponse:
        """The center's vectors. Raises as `generate` does."""
        return await self._forwarding.embed(request, seconds, self._meaning(target))

    def _meaning(self, target: Target) -> Meaning:
        def meaning(error: DeltaicError) -> DeltaicError:
            if error.code is Code.UNAVAILABLE and error.reason == "UNREACHABLE":
                return line_cut(target, self._coming(target))
            return error

        return meaning
