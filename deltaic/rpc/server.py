"""A gRPC server with what every node has: interceptors, standard health, reflection, an orderly end."""

import errno
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deltaic.errors import DeltaicError
from deltaic.rpc.framing import frame_options
from deltaic.rpc.interceptors import ServerCalls
from deltaic.rpc.keepalive import keepalive_options
from deltaic.runtime.addresses import check_address, host_and_port
from deltaic.trust.identity import Authenticator, OpenNetwork

_log = structlog.get_logger(__name__)


class PortInUse(DeltaicError, OSError):
    """The address to listen on is taken, is not of this machine, or is kept from this user."""

    reason = "PORT_IN_USE"


class Server:
    """One listening gRPC server. `add` servicers, then enter `running()`."""

    def __init__(self, listen: str, *, authenticator: Authenticator | None = None) -> None:
        """`listen` is `host:port` (port 0 picks a free one) or `unix:/path`."""
        self._listen = listen
        self._services: list[str] = []
        self._health = health.aio.HealthServicer()
        self.port = 0
        self._server = grpc.aio.server(
            interceptors=[ServerCalls(authenticator or OpenNetwork())],
            options=[
                ("grpc.so_reuseport", 0),
                *keepalive_options(),
                *frame_options(),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, service: str) -> None:
        """`register` is the generated add_XServicer_to_server, `service` the full name, "deltaic.v1.XService"."""
        register(servicer, self._server)
        self._services.append(service)

    async def set_serving(self, serving: bool, services: Sequence[str] = ()) -> None:
        """Say to health checks whether these services (all, when none is named) answer."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in services or ("", *self._services):
            await self._health.set(service, status)

    def _bind(self) -> int:
        address = check_address(self._listen, listening=True)
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError:
            raise refused(address) from None

    @asynccontextmanager
    async def running(self, *, grace: float = 5.0, serving: bool = True) -> AsyncIterator["Server"]:
        """Listen until the context ends; then refuse new calls and give those in flight `grace` seconds.

        Raises BadAddress, PortInUse.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = self._bind()
        await self._server.start()
        await self.set_serving(serving)
        _log.info("rpc.listening", listen=self._listen, port=self.port, services=self._services)
        try:
            yield self
        finally:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace)


def refused(address: str, flag: str = "--listen") -> PortInUse:
    """Say why the address cannot be listened on; gRPC tells only that. `flag` is the setting that chose it."""
    if address.startswith("unix"):
        hint = "its folder must exist and be writable, and its path be short (107 bytes)"
        hint += f": choose another with {flag}"
        return PortInUse(f"cannot listen on {address}", hint=hint)
    host, port = host_and_port(address)
    why = "the port is taken or the address is not of this machine"
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(place)
    except PermissionError:
        why = "this user may not take so low a port"
    except socket.gaierror:
        why = "no machine is known by that name"
    except OSError as error:
        causes = {errno.EADDRINUSE: "the port is taken", errno.EADDRNOTAVAIL: "the address is not of this machine"}
        why = causes.get(error.errno or 0, why)
    return PortInUse(f"cannot listen on {address}", hint=f"{why}: choose another with {flag}")
