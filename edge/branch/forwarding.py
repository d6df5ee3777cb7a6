"""A request passed on to another node: its stream, bounded by what remains of the deadline, and what its end means."""

from collections.abc import AsyncGenerator, Callable

import grpc

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from edge.branch.hops import PASSED_ON
from edge.errors import NeighbourLacks, NeighbourLost, NoTimeLeft

_MARGIN_SHARE = 0.05
_MARGIN_SECONDS = 0.25
_AGAIN_MS = "500"
_LACKS = frozenset({"NOT_HELD_HERE", "NOT_SERVED"})

Meaning = Callable[[DeltaicError], DeltaicError]


class Forwarding:
    """Calls to one node. What comes back is that node's, errors included, as `meaning` understands them."""

    def __init__(
        self, channel: grpc.aio.Channel, name: str, *, metadata: tuple[tuple[str, str], ...] = PASSED_ON
    ) -> None:
        """`name` is for people: "center 10.0.0.1:7400"."""
        self._stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
        self.name = name
        self._metadata = metadata

    async def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float, meaning: Meaning
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream the node's answer, which gets what remains of `seconds` less a margin for the way back.

        Raises NoTimeLeft, and what the node answers with. Closing this cancels the call there.
        """
        call = self._stub.Generate(request, timeout=self._timeout(request.model, seconds), metadata=self._metadata)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as failure:
            raise meaning(from_rpc_error(failure, self.name)) from None
        finally:
            call.cancel()

    async def embed(
        self, request: inference_pb2.EmbedRequest, seconds: float, meaning: Meaning
    ) -> inference_pb2.EmbedResponse:
        """The node's vectors. Raises as `generate` does."""
        timeout = self._timeout(request.model, seconds)
        try:
            return await self._stub.Embed(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise meaning(from_rpc_error(failure, self.name)) from None

    def _timeout(self, model: str, seconds: float) -> float:
        """What the node gets of the seconds that are left. Raises NoTimeLeft."""
        timeout = seconds - min(_MARGIN_SECONDS, _MARGIN_SHARE * seconds)
        if timeout <= 0:
            raise NoTimeLeft(f"no time left to ask {self.name} for {model}", hint="ask again, with more time")
        return timeout


def of_neighbour(name: str) -> Meaning:
    """What the errors of a neighbour mean to whoever asked this edge."""

    def meaning(error: DeltaicError) -> DeltaicError:
        if error.code is Code.UNAVAILABLE and error.reason == "UNREACHABLE":
            return NeighbourLost(
                f"{name} went away before the answer was complete",
                hint="send the request again",
                retry_after_ms=_AGAIN_MS,
            )
        if error.code is Code.NOT_FOUND and error.reason in _LACKS:
            return NeighbourLacks(
                f"{name} has let go of the model", hint="send the request again", retry_after_ms=_AGAIN_MS
            )
        return error

    return meaning
