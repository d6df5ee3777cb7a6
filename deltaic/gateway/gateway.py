"""The gateway as an ASGI application: admission, routes, errors, one line in the log for each request."""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from deltaic.errors import Code, DeltaicError, Internal
from deltaic.gateway.answering import Answering
from deltaic.gateway.budget import Budget
from deltaic.gateway.caller import seconds_of
from deltaic.gateway.embeddings import Embeddings
from deltaic.gateway.errors import ForeignHost, GatewayStopping, MethodNotAllowed, NoSuchRoute
from deltaic.gateway.exchange import Exchange
from deltaic.gateway.generating import Completions
from deltaic.gateway.listing import Health, Listing
from deltaic.rpc.context import caller, enter_call
from deltaic.trust.identity import Authenticator, OpenNetwork
from deltaic.trust.roles import authorize

_log = structlog.get_logger(__name__)

_SERVICE = "/deltaic.v1.InferenceService"
_LONGEST_PATH = 200  # characters of a path in the log

Serve = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gateway takes. `seconds` is the deadline of a request that names none."""

    seconds: float = 120.0
    body_bytes: int = 8 << 20
    requests: int = 512
    bodies: int = 8
    """Largest bodies that may be held at the same time."""


class Gateway:
    """Serves `answering` over HTTP."""

    def __init__(
        self,
        answering: Answering,
        limits: Limits | None = None,
        *,
        metrics: Callable[[], bytes] | None = None,
        health: Health | None = None,
        authenticator: Authenticator | None = None,
        this_machine_only: bool = False,
    ) -> None:
        """`this_machine_only`: it listens on loopback, so a request for another host's name is a trick."""
        self._limits = limits or Limits()
        self._authenticator = authenticator or OpenNetwork()
        self._this_machine_only = this_machine_only
        self._budget = Budget(self._limits.requests, self._limits.body_bytes * self._limits.bodies)
        self._open: set[Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._router = Router(
            _routes(Listing(answering, metrics, health), answering, self._limits),
            redirect_slashes=False,
            default=_no_route,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Only HTTP comes here: the server is told to speak nothing else."""
        started = time.monotonic()
        exchange = Exchange(scope, receive, send, self._budget)
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        scope["app"], scope["exchange"] = self, exchange
        error: DeltaicError | None = None
        try:
            await self._serve(exchange, scope, receive, send)
        except DeltaicError as raised:
            error = raised
        except Exception:  # noqa: BLE001  # whatever an endpoint raises becomes an answer
            _log.exception("http.failed", path=exchange.path[:_LONGEST_PATH])
            error = Internal(f"internal error; the log has it under request id {exchange.request_id}")
        if error is not None:
            await exchange.refuse(error)
        self._tell(exchange, error, time.monotonic() - started)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, give the open ones so long, then end them with GatewayStopping."""
        self._stopping = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for exchange in list(self._open):
                exchange.interrupt(_stopping())

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stopping:
            raise _stopping()
        if self._this_machine_only:
            _check_host(exchange.headers.get("host", ""))
        identity = self._authenticator.authenticate(exchange.headers, exchange.peer)
        enter_call(exchange.request_id, identity)
        self._budget.enter()
        self._open.add(exchange)
        self._idle.clear()
        try:
            async with exchange.within(seconds_of(exchange.headers, self._limits.seconds)):
                await self._router(scope, receive, send)
        except HTTPException as refused:
            allow = (refused.headers or {}).get("Allow", "")
            raise MethodNotAllowed(
                f"{exchange.method} is not for this path", hint=f"use {allow}", allow=allow
            ) from None
        finally:
            self._budget.leave(exchange.held_bytes)
            self._open.discard(exchange)
            if not self._open:
                self._idle.set()

    def _tell(self, exchange: Exchange, error: DeltaicError | None, seconds: float) -> None:
        facts = exchange.facts | ({"code": error.code, "reason": error.reason} if error else {})
        level = _log.warning if error and error.code in (Code.INTERNAL, Code.DATA_LOSS) else _log.info
        level(
            "http.served",
            method=exchange.method,
            path=exchange.path[:_LONGEST_PATH],
            status=exchange.status,
            seconds=round(seconds, 4),
            **facts,
        )


class _Endpoint:
    """An endpoint that Starlette calls as ASGI, without a request or a response of its own around it."""

    def __init__(self, serve: Serve, method: str) -> None:
        """`method` of the contract says which roles may call; "" is for all."""
        self._serve = serve
        self._method = method

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        if self._method:
            authorize(caller(), f"{_SERVICE}/{self._method}")
        exchange: Exchange = scope["exchange"]
        await self._serve(exchange)


def _routes(listing: Listing, answering: Answering, limits: Limits) -> list[Route]:
    completions = Completions(answering, limits.body_bytes)
    embeddings = Embeddings(answering, limits.body_bytes)
    table: list[tuple[str, str, Serve, str]] = [
        ("POST", "/v1/chat/completions", completions.chat, "Generate"),
        ("POST", "/v1/completions", completions.text, "Generate"),
        ("POST", "/v1/embeddings", embeddings.embed, "Embed"),
        ("GET", "/v1/models", listing.models, "ListModels"),
        ("GET", "/v1/models/{name:path}", listing.model, "ListModels"),
        ("GET", "/healthz", listing.health, ""),
        ("GET", "/metrics", listing.metrics, ""),
    ]
    return [Route(path, _Endpoint(serve, method), methods=[verb]) for verb, path, serve, method in table]


async def _no_route(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NoSuchRoute(
        f"there is nothing at {scope['path'][:_LONGEST_PATH]}", hint="the base URL of clients ends in /v1"
    )


def _check_host(host: str) -> None:
    """Raises ForeignHost.

    A page that a browser shows may call this machine under a name of its own that resolves to it (DNS rebinding); its
    requests carry that name.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name in ("", "localhost") or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        raise ForeignHost(
            "this gateway is for its own machine only, and the request names another host",
            hint="call it as localhost or by its address, or let it listen on an address that others reach",
        ) from None


def _stopping() -> GatewayStopping:
    return GatewayStopping("this node is stopping", hint="send the request again")
