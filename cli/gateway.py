"""`deltaic gateway`: the HTTP face in a process of its own, before any node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from cli.connection import DEFAULT_NODE, NodeOption, caller_name
from deltaic.errors import InvalidArgument

_DEFAULT_HTTP = "127.0.0.1:8080"
_LEVELS = ("debug", "info", "warning", "error")


def register(app: typer.Typer) -> None:
    app.command("gateway", rich_help_panel="Run a role")(gateway)


def gateway(
    node: NodeOption = DEFAULT_NODE,
    http: Annotated[
        str, typer.Option(envvar="DELTAIC_GATEWAY_HTTP", help="Where to speak HTTP: HOST:PORT or unix:/PATH.")
    ] = _DEFAULT_HTTP,
    seconds: Annotated[
        float, typer.Option("--request-seconds", min=0.001, max=3600, help="Deadline of a request that names none.")
    ] = 120.0,
    body_mib: Annotated[int, typer.Option("--body-mib", min=1, max=1024, help="Most MiB of one request.")] = 8,
    drain: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="Seconds that running answers have at the end.")
    ] = 10.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Speak HTTP as OpenAI's API does, before a node that speaks gRPC. An edge and a device can do so themselves."""
    from deltaic.gateway.gateway import Limits
    from deltaic.gateway.mounting import http_face
    from deltaic.gateway.remote import RemoteNode
    from deltaic.rpc.channel import open_channel
    from deltaic.runtime.addresses import check_address
    from deltaic.runtime.lifetime import run_node
    from deltaic.runtime.logs import configure_logs

    target = check_address(node)
    check_address(http, listening=True)
    if log_level not in _LEVELS:
        raise InvalidArgument(f"no such log level: {log_level!r}", hint=f"use one of {', '.join(_LEVELS)}")
    configure_logs(log_level)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with open_channel(target, node=caller_name()) as channel:
            limits = Limits(seconds, body_mib << 20)
            async with http_face(RemoteNode(channel, f"node {target}"), http, limits, grace=drain):
                yield

    raise typer.Exit(run_node("gateway", running))
