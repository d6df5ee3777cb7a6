"""The only road by which a prompt can leave: it takes what egress built and nothing else."""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import copy_context

import grpc
import structlog

from deltaic.rpc.context import caller, enter_call, request_id
from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from device.egress import Outbound, is_outbound
from device.errors import NotAnOutbound, UpstreamCut, UpstreamSlow

_log = structlog.get_logger(__name__)

_Call = grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse]

_MADE_BY_A_MACHINE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Uplink:
    """Asks the node above for answers."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        """`target` names the other side for people, for example "upstream 127.0.0.1:7410"."""
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self.target = target

    async def generate(
        self, outbound: Outbound, seconds: float, *, first_within: float | None = None
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream an answer until its last choice is complete.

        `first_within`: seconds until the first message must be here.

        Raises NotAnOutbound before anything is sent; UpstreamSlow, UpstreamCut, or what the other side answered.
        """
        if not is_outbound(outbound):
            raise NotAnOutbound("this was not built by egress, so it is not sent")
        asked = outbound.request()
        call = self._begin(asked, seconds)
        try:
            wait = first_within
            open_choices = max(asked.choices, 1)
            while True:
                response = await self._next(call, wait)
                yield response
                open_choices -= response.HasField("completion")
                if not open_choices:
                    await _let_it_end(call)
                    return
                wait = None
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
        finally:
            call.cancel()

    def _begin(self, asked: inference_pb2.GenerateRequest, seconds: float) -> _Call:
        """Start the call in a context of its own, where the request id is one that may travel."""
        context = copy_context()
        context.run(enter_call, travelling_id(request_id()), caller())
        return context.run(self._stub.Generate, asked, timeout=max(seconds, 0.001))

    async def _next(self, call: _Call, within: float | None) -> inference_pb2.GenerateResponse:
        try:
            async with asyncio.timeout(within):
                response = await call.read()
        except TimeoutError:
            raise UpstreamSlow(
                f"{self.target} sent nothing for {within:.1f} s", hint="ask again, or raise --patience"
            ) from None
        if isinstance(response, inference_pb2.GenerateResponse):
            return response
        raise UpstreamCut(f"{self.target} ended its answer without a completion", hint="ask again")


async def _let_it_end(call: _Call) -> None:
    """Wait a moment for the status after the last message, so that the other side does not see a cancelled call."""
    with suppress(TimeoutError, grpc.RpcError):
        async with asyncio.timeout(1.0):
            await call.read()


def travelling_id(identifier: str) -> str:
    """The request id under which a request leaves: the same, unless a person may have put words into it."""
    if _MADE_BY_A_MACHINE.fullmatch(identifier):
        return identifier
    fresh = uuid.uuid4().hex
    _log.info("egress.request_id_replaced", sent_as=fresh)
    return fresh
