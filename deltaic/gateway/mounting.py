"""The HTTP face of a node, for as long as the node runs."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from deltaic.gateway.answering import Answering
from deltaic.gateway.gateway import Gateway, Limits
from deltaic.gateway.listing import Health
from deltaic.gateway.server import HttpServer, is_this_machine


@asynccontextmanager
async def http_face(
    answering: Answering,
    listen: str,
    limits: Limits,
    *,
    grace: float,
    metrics: Callable[[], bytes] | None = None,
    health: Health | None = None,
) -> AsyncIterator[int]:
    """Serve HTTP until the context ends; the port. Does nothing, and gives 0, when `listen` is empty.

    Raises BadAddress, PortInUse.
    """
    if not listen:
        yield 0
        return
    gateway = Gateway(answering, limits, metrics=metrics, health=health, this_machine_only=is_this_machine(listen))
    async with HttpServer(gateway, listen).running(grace=grace) as server:
        yield server.port
