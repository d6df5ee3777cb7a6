"""`deltaic status`, `deltaic health`, `deltaic version`: how the fleet is."""

from importlib.metadata import version
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table

from cli.connection import CALL_SECONDS, DEFAULT_CENTER, JsonOption, all_pages, connected, console, print_json, run
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import fleet_pb2, inference_pb2
from deltaic.v1.fleet_pb2_grpc import FleetServiceStub

_PANEL = "Operate"


def register(app: typer.Typer) -> None:
    app.command("status", rich_help_panel=_PANEL)(status)
    app.command("health", rich_help_panel=_PANEL)(health)
    app.command("version", rich_help_panel=_PANEL)(print_version)


def status(
    at: Annotated[
        str, typer.Option("--at", envvar="DELTAIC_CENTER", help="Center (the whole fleet) or edge (its branch) to ask.")
    ] = DEFAULT_CENTER,
    as_json: JsonOption = False,
) -> None:
    """Show every node's last report: what it serves, how far an update is, what it answered."""
    nodes = run(list_nodes(at))
    if as_json:
        print_json([MessageToDict(node) for node in nodes])
        return
    table = Table("node", "channel", "phase", "serves", "update", "answered", "forwarded", "failed", box=None)
    for node in nodes:
        counts = node.requests
        numbers = [str(counts.answered), str(counts.forwarded), str(counts.failed)]
        for state in node.models or [fleet_pb2.ModelState()]:
            table.add_row(node.node, *_state_columns(state), *numbers)
    console.print(table)


def _state_columns(state: fleet_pb2.ModelState) -> tuple[str, str, str, str]:
    if not state.channel:
        return "", "", "", ""
    channel = ChannelName.parse(state.channel)
    phase = fleet_pb2.ModelState.Phase.Name(state.phase).removeprefix("PHASE_").lower()
    serves = RevisionName.parse(state.serving_revision).hex[:12] if state.serving_revision else "nothing yet"
    progress = state.progress
    done = progress.reused_bytes + progress.fetched_bytes
    percent = min(100.0, 100 * done / max(1, progress.full_bytes))
    update = state.detail or f"{percent:.0f} %, {progress.wire_bytes:,} bytes came over the line"
    return f"{channel.model}/{channel.channel}", phase, serves, update


async def list_nodes(at: str) -> list[fleet_pb2.NodeReport]:
    """All pages of the reports that a center or an edge has."""
    request = fleet_pb2.ListNodesRequest(page_size=1000)
    async with connected(at, "node") as connection:
        return await all_pages(FleetServiceStub(connection).ListNodes, request, lambda page: page.nodes)


def health(
    target: Annotated[str, typer.Argument(help="Address of a node.")],
    service: Annotated[str, typer.Option(help="One service, for example deltaic.v1.InferenceService.")] = "",
) -> None:
    """Ask a node's standard health service; exit status 0 when it serves, 1 when not."""
    serving = run(is_serving(target, service))
    console.print("serving" if serving else "not serving")
    raise typer.Exit(0 if serving else 1)


async def is_serving(target: str, service: str = "", *, what: str = "node") -> bool:
    """What the node's health service says. Raises RemoteError when nobody answers or the service is unknown."""
    async with connected(target, what) as connection:
        answer = await health_pb2_grpc.HealthStub(connection).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=CALL_SECONDS
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def print_version() -> None:
    """Print the version."""
    print(f"deltaic {version('deltaic')}")


def role_word(role: inference_pb2.NodeRole.ValueType) -> str:
    """NODE_ROLE_EDGE as people say it: edge."""
    return inference_pb2.NodeRole.Name(role).removeprefix("NODE_ROLE_").lower()
