"""What happens around every call, once, so that no servicer repeats it.

A server call: bind the request id, authenticate, check the role, serve, log one line, turn an error into a status. A
client call: refuse one without a timeout, pass on the request id and the node's name.
"""

import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import structlog

from deltaic.errors import Code, DeltaicError, Internal, Unimplemented
from deltaic.rpc.context import NODE_KEY, REQUEST_ID_KEY, enter_call, request_id
from deltaic.rpc.status import STATUS_KEY, to_status
from deltaic.trust.identity import Authenticator
from deltaic.trust.roles import authorize

_log = structlog.get_logger(__name__)
_QUIET = ("/grpc.health.", "/grpc.reflection.")


class ServerCalls(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_QUIET):
            return handler
        for kind in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
            serve = getattr(handler, kind)
            if serve is not None:
                wrap = self._streaming if kind.endswith("stream") else self._unary
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(wrap(method, serve), handler.request_deserializer, handler.response_serializer)
        return handler

    def _unary(self, method: str, serve: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def served(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.monotonic()
            try:
                self._enter(method, context)
                answer = await serve(request, context)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes a status
                await _fail(method, started, error, context)
            else:
                _log.debug("rpc.served", method=method, seconds=round(time.monotonic() - started, 4))
                return answer

        return served

    def _streaming(self, method: str, serve: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        if not inspect.isasyncgenfunction(serve):
            raise TypeError(f"{method} must be an async generator")

        async def served(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            started = time.monotonic()
            try:
                self._enter(method, context)
                async for answer in serve(request, context):
                    yield answer
            except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes a status
                await _fail(method, started, error, context)
            else:
                _log.debug("rpc.served", method=method, seconds=round(time.monotonic() - started, 4))

        return served

    def _enter(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        identity = self._authenticator.authenticate(metadata, context.peer())
        identifier = metadata.get(REQUEST_ID_KEY, "")[:64] or uuid.uuid4().hex
        enter_call(identifier, identity)
        structlog.contextvars.bind_contextvars(request_id=identifier)
        authorize(identity, method)


async def _fail(method: str, started: float, error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    seconds = round(time.monotonic() - started, 4)
    if isinstance(error, NotImplementedError):
        error = Unimplemented(f"this node does not offer {method}")
    if isinstance(error, DeltaicError):
        level = _log.warning if error.code in (Code.INTERNAL, Code.DATA_LOSS) else _log.info
        level(
            "rpc.refused", method=method, code=error.code, reason=error.reason, message=error.message, seconds=seconds
        )
        known = error
    else:
        _log.exception("rpc.failed", method=method, seconds=seconds)
        known = Internal(f"internal error; the log has it under request id {request_id()}")
    status = to_status(known)
    await context.abort(grpc.StatusCode[known.code], status.message, ((STATUS_KEY, status.SerializeToString()),))


class NoDeadline(Internal):
    """A call was about to be made without a timeout; a mistake of ours, found before anything was sent."""

    reason = "NO_DEADLINE"


class _ClientCalls:
    """What happens to every call of a channel. To grpc.aio an interceptor is of one of four kinds, never of more."""

    def __init__(self, node: str) -> None:
        self._node = node

    async def _call(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        named = cast("str | bytes", details.method)  # bytes when it comes from grpc.aio, whatever its stubs say
        method = named.decode() if isinstance(named, bytes) else named
        if details.timeout is None and not method.startswith(_QUIET):
            raise NoDeadline(f"{method} was called without a timeout")
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata[REQUEST_ID_KEY] = request_id()
        metadata[NODE_KEY] = self._node
        passed_on = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(passed_on, request)


class _UnaryUnary(_ClientCalls, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _UnaryStream(_ClientCalls, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamUnary(_ClientCalls, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


class _StreamStream(_ClientCalls, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


def client_calls(node: str) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors of a channel of this node."""
    return [kind(node) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]
