"""The line to the center, for requests that only the center can answer."""

from collections.abc import AsyncGenerator, Callable

import grpc

from deltaic.errors import Code
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
        timeout = seconds - min(_MARGIN_SECONDS, _MARGIN_SHARE * seconds)
        if timeout <= 0:
            raise NoTimeLeft(f"no time left to ask the center for {target}", hint="ask again, with more time")
        call = self._stub.Generate(request, timeout=timeout)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, self._name)
            if error.code is Code.UNAVAILABLE and error.reason == "UNREACHABLE":
                raise line_cut(target, self._coming(target)) from None
            raise error from None
        finally:
            call.cancel()
