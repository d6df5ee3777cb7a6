"""`deltaic status`, `deltaic health`, `deltaic version`: how the fleet is."""

import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.filesize import decimal

from cli.connection import CALL_SECONDS, DEFAULT_CENTER, all_pages, connected, run
from cli.screen import JsonOption, print_json
from cli.tables import is_terminal, print_line, print_rows
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import fleet_pb2, inference_pb2
from deltaic.v1.fleet_pb2_grpc import FleetServiceStub

_PANEL = "Operate"
_SILENT_SECONDS = 30.0  # nodes report every 5 s unless they are told otherwise


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
    columns = ("node", "phase", "heard", "answered", "forwarded", "failed", "busy", "channel", "serves", "update")
    print_rows(columns, status_rows(nodes, time.time()), below=[("channel", "serves", "update")])


def status_rows(nodes: Iterable[fleet_pb2.NodeReport], now: float) -> Iterator[tuple[str, ...]]:
    """A row for each channel of each node; `now` in seconds since 1970."""
    for node in nodes:
        age = max(0.0, now - node.time.ToMicroseconds() / 1e6)
        counts = node.requests
        numbers = [str(counts.answered), str(counts.forwarded), str(counts.failed)]
        for state in node.models or [fleet_pb2.ModelState()]:
            phase, *progress = _state_columns(state)
            phase = "silent" if age > _SILENT_SECONDS else phase
            yield node.node, phase, f"{_duration(age)} ago", *numbers, *progress


def _busy(state: fleet_pb2.ModelState) -> str:
    """Requests that run, of how many can, that wait, and how full the memory of their tokens is: 3/4+2 61 %."""
    load = state.worker
    if not load.slots:
        return ""
    waiting = f"+{load.waiting + load.parked}" if load.waiting + load.parked else ""
    return f"{load.running}/{load.slots}{waiting} {100 * load.kv_tokens / max(1, load.kv_capacity):.0f} %"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _state_columns(state: fleet_pb2.ModelState) -> tuple[str, str, str, str, str]:
    if not state.channel:
        return "", "", "", "", ""
    channel = ChannelName.parse(state.channel)
    phase = fleet_pb2.ModelState.Phase.Name(state.phase).removeprefix("PHASE_").lower()
    serves = _serves(state.serving_revision) if state.serving_revision else "nothing yet"
    return phase, _busy(state), f"{channel.model}/{channel.channel}", serves, state.detail or _progress(state)


def _serves(revision: str) -> str:
    name = RevisionName.parse(revision)
    return name.hex[:12] if is_terminal() else name.revision


def _progress(state: fleet_pb2.ModelState) -> str:
    """How far the last update is, what came over the line for it, and how it came."""
    progress = state.progress
    came = f"{decimal(progress.wire_bytes)}{_way(progress)}"
    if state.phase == fleet_pb2.ModelState.PHASE_READY and state.serving_revision == state.target_revision:
        return f"up to date, {came}" if progress.wire_bytes else "up to date"
    done = progress.reused_bytes + progress.delta_bytes + progress.fetched_bytes
    percent = min(100.0, 100 * done / max(1, progress.full_bytes))
    words = [f"{percent:.0f} %", came]
    if progress.bytes_per_second >= 1:
        words.append(f"{decimal(int(progress.bytes_per_second))}/s")
    if progress.seconds_left >= 1:
        words.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(words)


def _way(progress: fleet_pb2.UpdateProgress) -> str:
    """Whether chunks came, a delta, or both. The manifest counts as fetched too, and is no chunk."""
    if not progress.delta_bytes:
        return " of chunks" if progress.wire_bytes else ""
    chunks = progress.reused_bytes + progress.delta_bytes < progress.full_bytes
    return " of delta and chunks" if chunks else " of delta"


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
    print_line("serving" if serving else "not serving")
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
