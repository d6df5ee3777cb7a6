"""One request and its answer, on bare ASGI: a piece of a stream is one `send`, and nothing stands between.

An exchange ends early when its client goes away, when its deadline passes or when the node stops. A client that reads
slowly makes `write` wait: what is not yet written is bounded by the server's write buffer (64 KiB), and the wait by the
deadline.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deltaic.errors import DeltaicError
from deltaic.gateway.budget import Budget
from deltaic.gateway.caller import REQUEST_ID_HEADER, request_id_of
from deltaic.gateway.error_body import error_body, error_event
from deltaic.gateway.errors import BodyTooLarge, ClientGone, NotJsonContent, OutOfTime
from deltaic.rpc.http_status import http_status, retry_headers

ABORT = "deltaic.abort"
"""Key of `scope["extensions"]`: a function that drops the connection at once, without writing what is left."""

_LAST_WORD_SECONDS = 1.0
_SLACK = 0.5
"""Seconds by which the node's own word about a deadline may be late before the gateway has its say."""


class Exchange:
    """Made for each request, used by one task."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, budget: Budget) -> None:
        self.headers: Mapping[str, str] = Headers(scope=scope)
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.request_id = request_id_of(self.headers)
        self.facts: dict[str, object] = {}  # for the access log; never words of a prompt or an answer
        self.status = 0
        self.held_bytes = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._budget = budget
        self._until = 0.0
        self._limit: asyncio.Timeout | None = None
        self._why: DeltaicError | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._writing = False
        self._complete = False

    @property
    def peer(self) -> str:
        """Address of the client, for people."""
        client = self._scope.get("client")
        return f"{client[0]}:{client[1]}" if client else "unix:"

    def path_parameter(self, name: str) -> str:
        return str(self._scope["path_params"][name])

    @property
    def seconds(self) -> float:
        """Seconds left, at least a millisecond."""
        return max(self._until - asyncio.get_running_loop().time(), 0.001)

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Run the body of the context for at most so long.

        Raises OutOfTime, ClientGone, or what `interrupt` was given.
        """
        loop = asyncio.get_running_loop()
        self._until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(self._until + _SLACK) as limit:
                self._limit = limit
                yield
        except TimeoutError as error:
            if isinstance(error, DeltaicError) or not limit.expired():
                raise
            raise self._why or OutOfTime("the deadline passed before the answer was complete") from None
        finally:
            self._limit = None
            if self._watcher is not None:
                self._watcher.cancel()

    def interrupt(self, error: DeltaicError) -> None:
        """End the exchange with `error`, wherever it is; for the first who calls."""
        if self._limit is not None and self._why is None and not self._limit.expired():
            self._why = error
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def body(self, most: int) -> bytes:
        """The whole body, of at most so many bytes; from here on, a client that leaves ends the exchange.

        Raises NotJsonContent, BodyTooLarge, GatewayBusy, ClientGone.
        """
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Not pedantry: a page in a browser may send any other type to this machine without asking.
            raise NotJsonContent(
                "the content type of the request is not JSON", hint="send content-type: application/json"
            )
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone("the client left before its request was complete")
            body += self._counted(message.get("body", b""), most)
            if not message.get("more_body", False):
                self._watcher = asyncio.create_task(self._watch())
                return bytes(body)

    def _counted(self, part: bytes, most: int) -> bytes:
        if self.held_bytes + len(part) > most:
            raise BodyTooLarge(f"the request has more than {most:,} bytes", hint="send less at once")
        self._budget.take(len(part))
        self.held_bytes += len(part)
        return part

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._complete:  # a server says the same when all is said
            self.interrupt(ClientGone("the client went away"))

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a whole body, JSON unless the headers say otherwise."""
        fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        await self._start(status, fields)
        await self.write(body, more=False)

    async def start_stream(self) -> None:
        """Begin server-sent events. Proxies are told not to wait for more."""
        await self._start(200, {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Hand over a piece; waits while the client does not read."""
        self._writing = True
        self._complete = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._writing = False

    async def refuse(self, error: DeltaicError) -> None:
        """Tell the client what went wrong: as the answer, or in the middle of a stream as its last event.

        One that does not take even that within a second is dropped.
        """
        try:
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self._say(error)
        except TimeoutError:
            await self._abort()

    async def _say(self, error: DeltaicError) -> None:
        if isinstance(error, ClientGone):
            self.status = self.status or http_status(error)
            await self._abort()
        elif not self.status:
            status = http_status(error)
            headers = retry_headers(error)
            if "allow" in error.metadata:
                headers["allow"] = error.metadata["allow"]
            if self.method == "POST" and self._watcher is None:
                headers["connection"] = "close"  # the rest of the body is not worth reading
            await self.answer(status, error_body(error, status), headers)
        elif self._writing:
            await self._abort()  # it does not read, so it cannot be told
        else:
            await self.write(error_event(error), more=False)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode(), _printable(value)) for name, value in headers.items()]
        raw += [
            (b"date", formatdate(usegmt=True).encode()),
            (b"cache-control", b"no-store"),
            (REQUEST_ID_HEADER.encode(), self.request_id.encode()),
        ]
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _abort(self) -> None:
        extensions: dict[str, Any] = self._scope.get("extensions") or {}
        abort: Callable[[], None] | None = extensions.get(ABORT)
        if abort is not None:
            abort()
            await asyncio.sleep(0)  # the server hears of it in the next round of the loop


def _printable(value: str) -> bytes:
    """A header holds what another node said of itself; a line break in it would begin another header."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in value).encode()
