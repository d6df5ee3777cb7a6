"""`deltaic edge status`, `deltaic edge drain`, `deltaic edge reload`: operate a running edge."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.live import Live

from cli import screen
from cli.connection import CALL_SECONDS, DEFAULT_NODE, connected, run
from cli.edge_view import lines_of, view_of
from cli.screen import JsonOption, print_json
from cli.tables import is_terminal, print_line
from deltaic.errors import InvalidArgument
from deltaic.v1 import fleet_pb2
from deltaic.v1.fleet_pb2_grpc import FleetServiceStub

_At = Annotated[str, typer.Option("--at", envvar="DELTAIC_NODE", help="Address of the edge.", show_default=True)]


def main(command: str, argv: Sequence[str]) -> int:
    """Parse the arguments behind `command` and do it; the exit status."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(_COMMANDS[command])
    parsed = typer.main.get_command(app)
    return int(parsed.main(list(argv), prog_name=f"deltaic edge {command}", standalone_mode=False) or 0)


def status(
    at: _At = DEFAULT_NODE,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks of --watch.")] = 1.0,
) -> None:
    """Show what an edge holds, has loaded and why, where it answered, what it saved, and what waits for the center.

    With [bold]--watch --json[/bold], one object a line.

    Example: [bold]deltaic edge status --watch[/bold]
    """
    if not watch:
        _show(run(node_status(at)), as_json=as_json)
        return
    if as_json or not is_terminal():
        while True:
            _show(run(node_status(at)), as_json=as_json)
            time.sleep(every)
    _watch(at, every)


def drain(
    at: _At = DEFAULT_NODE, undo: Annotated[bool, typer.Option("--undo", help="Take them again.")] = False
) -> None:
    """Let an edge take no new requests: health says NOT_SERVING, what runs ends, devices still get models.

    It lasts until [bold]--undo[/bold], or until the edge starts again.
    """
    done = run(_drain(at, undo))
    if not done.draining:
        print_line("takes requests again")
    elif done.in_flight:
        print_line(f"draining: {done.in_flight} requests are still being answered")
    else:
        print_line("draining: nothing is being answered")


def reload(at: _At = DEFAULT_NODE, as_json: JsonOption = False) -> None:
    """Let an edge read its settings again, as SIGHUP does, and say which wait for a restart.

    Flags and variables stay as they were at its start; what changes is its file. An error changes nothing.
    """
    done = run(_reload(at))
    if as_json:
        print_json({"applied": list(done.applied), "needRestart": list(done.need_restart)})
        return
    print_line(
        f"in force now: {', '.join(done.applied)}" if done.applied else "nothing changed that can without a restart"
    )
    if done.need_restart:
        print_line(f"changed, and in force after a restart: {', '.join(done.need_restart)}")


_COMMANDS: dict[str, Callable[..., None]] = {"status": status, "drain": drain, "reload": reload}


async def node_status(at: str) -> fleet_pb2.NodeStatus:
    """Raises RemoteError."""
    async with connected(at, "edge") as connection:
        answer = await FleetServiceStub(connection).GetNode(fleet_pb2.GetNodeRequest(), timeout=CALL_SECONDS)
        return answer.status


async def _drain(at: str, undo: bool) -> fleet_pb2.DrainNodeResponse:
    async with connected(at, "edge") as connection:
        request = fleet_pb2.DrainNodeRequest(undo=undo)
        return await FleetServiceStub(connection).DrainNode(request, timeout=CALL_SECONDS)


async def _reload(at: str) -> fleet_pb2.ReloadNodeResponse:
    async with connected(at, "edge") as connection:
        return await FleetServiceStub(connection).ReloadNode(fleet_pb2.ReloadNodeRequest(), timeout=4 * CALL_SECONDS)


def _show(status: fleet_pb2.NodeStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(MessageToDict(status, always_print_fields_with_no_presence=True))
        return
    for line, style in lines_of(status, time.time()):
        print_line(line, style)


def _watch(at: str, every: float) -> None:
    """A line that is cut is shown, and the last status above it stays."""
    last = fleet_pb2.NodeStatus()
    with Live(console=screen.console, auto_refresh=False) as live:
        while True:
            trouble = ""
            try:
                last = run(node_status(at))
            except InvalidArgument:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the next look may be better
                trouble = str(error)
            live.update(view_of(last, time.time(), trouble), refresh=True)
            time.sleep(every)
