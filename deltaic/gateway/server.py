"""The listening HTTP server of a gateway: an address, uvicorn's connections on this process's loop, an orderly end.

uvicorn's own server is not used: it takes the process's signals, and ends in steps of a tenth of a second.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import uvicorn
from uvicorn.server import ServerState

from deltaic.gateway.connection import Connection
from deltaic.gateway.gateway import Gateway
from deltaic.rpc.server import refused
from deltaic.runtime.addresses import check_address, host_and_port

_log = structlog.get_logger(__name__)

SEND_BUFFER = 256 << 10
"""Bytes of answers that the kernel may hold for one client (Linux takes twice that); by itself it would hold MiBs."""

_BACKLOG = 256
_KEEP_ALIVE_SECONDS = 30
_LAST_SECONDS = 1.0
"""For writing what was said last, once nothing is answered any more."""


class HttpServer:
    """Listens while `running()` is entered; `port` is then where, 0 for a Unix socket."""

    def __init__(self, gateway: Gateway, listen: str) -> None:
        """`listen` is `host:port` (port 0 picks a free one) or `unix:/path`."""
        self._gateway = gateway
        self._listen = listen
        self.port = 0

    @asynccontextmanager
    async def running(self, *, grace: float = 5.0) -> AsyncIterator["HttpServer"]:
        """Listen until the context ends; then give requests in flight `grace` seconds. Raises BadAddress, PortInUse."""
        sockets = await asyncio.to_thread(listening_sockets, self._listen)
        name = sockets[0].getsockname()
        self.port = 0 if isinstance(name, str | bytes) else name[1]
        state = ServerState()
        loop = asyncio.get_running_loop()
        config = _config(self._gateway)
        config.load()
        make = partial(Connection, config=config, server_state=state, app_state={}, _loop=loop)
        servers = [await loop.create_server(make, sock=each, backlog=_BACKLOG) for each in sockets]
        _log.info("http.listening", listen=self._listen, port=self.port)
        try:
            yield self
        finally:
            for server in servers:
                server.close()
            await self._gateway.drain(grace)
            await _hang_up(state)
            if self._listen.startswith("unix:"):
                await asyncio.to_thread(Path(self._listen.removeprefix("unix:")).unlink, missing_ok=True)


async def _hang_up(state: ServerState) -> None:
    """Close connections, those that are still written to a moment later and by force."""
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=_LAST_SECONDS)
    for connection in list(state.connections):
        connection.transport.abort()
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)


def _config(gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )


def listening_sockets(listen: str) -> list[socket.socket]:
    """Bound sockets for an address: one for each that a name has. Raises BadAddress, PortInUse."""
    address = check_address(listen, listening=True)
    try:
        if address.startswith("unix:"):
            return [_unix_socket(address.removeprefix("unix:"))]
        if address.startswith("unix-abstract:"):
            return [_unix_socket("\0" + address.removeprefix("unix-abstract:"))]
        host, port = host_and_port(address)
        return _bound(host.strip("[]"), port)
    except OSError:
        raise refused(address, "--http") from None


def _unix_socket(path: str) -> socket.socket:
    """One whose path a crash left behind is taken over; one that somebody listens on is not."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not path.startswith("\0") and Path(path).is_socket() and found.connect_ex(path) != 0:
            Path(path).unlink()
        found.close()
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        found.bind(path)
        found.listen(_BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def _bound(host: str, port: int) -> list[socket.socket]:
    kinds = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(kinds):
            each = socket.socket(family, kind, protocol)
            bound.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # The second family takes the port that the first one was given.
            each.bind((place[0], bound[0].getsockname()[1] if len(bound) > 1 else port, *place[2:]))
            each.listen(_BACKLOG)
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def is_this_machine(listen: str) -> bool:
    """Whether only programs of this machine reach the address by IP: loopback."""
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
