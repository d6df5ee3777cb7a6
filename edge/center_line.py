"""The line to the center, for requests that only the center can answer."""

from collections.abc import AsyncGenerator, Callable

import grpc

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from edge.errors import NoTimeLeft
from edge.route import Target, line_cut

_MARGIN_SHARE = 0.05
_MARGIN_SECONDS = 0.25
_DOWN = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class CenterLine:
    """Passes requests on. What comes back is the center's, errors included."""

    def __init__(self, channel: grpc.aio.Channel, name: str, coming: Callable[[Target], str | None]) -> None:
        """`name` is for people: "center 10.0.0.1:7400"; `coming` as `edge.route.decide` takes it."""
        self._coming = coming
        self._channel = channel
        self._name = name
        self._stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)

    @property
    def up(self) -> bool:
        """Whether there is a connection, or none was tried. Begins to connect when none is there; never waits."""
        return self._channel.get_state(try_to_connect=True) not in _DOWN

    async def generate(
        self, target: Target, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream the center's answer, which gets what remains of `seconds` less a margin for the way back.

        Raises CenterUnreachable, NoTimeLeft, and what the center answers with. Closing this cancels the call there.
        """
        call = self._stub.Generate(request, timeout=_timeout(target, seconds))
        try:
            async for response in call:
                yield response
        except grpc.RpcError as failure:
            raise self._meaning(failure, target) from None
        finally:
            call.cancel()

    async def embed(
        self, target: Target, request: inference_pb2.EmbedRequest, seconds: float
    ) -> inference_pb2.EmbedResponse:
        """The center's vectors. Raises as `generate` does."""
        try:
            return await self._stub.Embed(request, timeout=_timeout(target, seconds))
        except grpc.RpcError as failure:
            raise self._meaning(failure, target) from None

    def _meaning(self, failure: grpc.RpcError, target: Target) -> DeltaicError:
        error = from_rpc_error(failure, self._name)
        if error.code is Code.UNAVAILABLE and error.reason == "UNREACHABLE":
            return line_cut(target, self._coming(target))
        return error


def _timeout(target: Target, seconds: float) -> float:
    """What the center gets of the seconds that are left. Raises NoTimeLeft."""
    timeout = seconds - min(_MARGIN_SECONDS, _MARGIN_SHARE * seconds)
    if timeout <= 0:
        raise NoTimeLeft(f"no time left to ask the center for {target}", hint="ask again, with more time")
    return timeout
