"""An edge's status as a person reads it. Pure: a message in, lines out."""

from collections.abc import Iterator

from rich.filesize import decimal
from rich.text import Text

from deltaic.errors import BadName
from deltaic.names import RevisionName
from deltaic.v1 import fleet_pb2

_DIGITS = 12
_Line = tuple[str, str]


def view_of(status: fleet_pb2.NodeStatus, now: float, trouble: str = "") -> Text:
    """For a live display; `now` in seconds since 1970."""
    lines = [*lines_of(status, now)] if status.report.node else []
    if trouble:
        lines.append((_plain(trouble), "red"))
    return Text("\n").join(Text(text, style) for text, style in lines)


def lines_of(status: fleet_pb2.NodeStatus, now: float) -> Iterator[_Line]:
    """Lines and their styles."""
    report, up = status.report, max(0.0, now - status.start_time.ToMicroseconds() / 1e6)
    yield f"{_plain(report.node)}  {report.version}, up {_duration(up)}", "bold"
    serving = "takes requests" if status.serving else f"takes none: {'; '.join(status.reasons)}"
    yield f"health    {serving}; {status.in_flight} being answered", "" if status.serving else "yellow"
    yield f"line      {_line(status.line, now)}", "" if status.line.up else "yellow"
    yield f"memory    {decimal(status.hot_bytes)} of {decimal(status.hot_budget_bytes)} for loaded models", ""
    yield f"requests  {_requests(status.places)}", ""
    yield f"fetched   {_fetched(status.fetched)}", ""
    yield f"spool     {_spool(status.spool)}", "red" if status.spool.lost else ""
    yield "", ""
    yield from _models(status)


def _models(status: fleet_pb2.NodeStatus) -> Iterator[_Line]:
    if not status.held:
        yield "holds no model yet", ""
    loads = {state.serving_revision: state.worker for state in status.report.models if state.HasField("worker")}
    for held in status.held:
        marks = ["loaded" if held.loaded else "on disk", *(["pinned"] if held.pinned else [])]
        size = decimal(held.memory_bytes if held.loaded else held.file_bytes)
        yield f"{_revision(held.revision)}  {', '.join(marks)}  {size}", "bold" if held.loaded else ""
        yield f"  why     {_plain(held.why)}", ""
        if (load := loads.get(held.revision)) is not None:
            waiting = load.waiting + load.parked
            yield f"  worker  {load.running} of {load.slots} slots, {waiting} waiting, {load.restarts} restarts", ""
    for state in status.report.models:
        if state.phase != state.PHASE_READY:
            phase = state.Phase.Name(state.phase).removeprefix("PHASE_").lower()
            detail = f": {_plain(state.detail)}" if state.detail else ""
            yield f"{state.channel}  {phase}{detail}", "yellow"


def _line(line: fleet_pb2.LineStatus, now: float) -> str:
    if not line.HasField("since"):
        return f"{line.upstream}, not heard of yet"
    since = _duration(max(0.0, now - line.since.ToMicroseconds() / 1e6))
    return f"{line.upstream} {'up' if line.up else 'cut'} for {since}"


def _requests(places: fleet_pb2.PlaceCounts) -> str:
    answered = {name: getattr(places, name) for name in ("local", "neighbour", "center", "cache")}
    total = sum(answered.values())
    shares = ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in answered.items() if count)
    return f"{total} answered{f' ({shares})' if shares else ''}, {places.refused} refused, {places.failed} failed"


def _fetched(fetched: fleet_pb2.FetchCounts) -> str:
    parts = ", ".join(f"{decimal(count)} from {_plain(name)}" for name, count in sorted(fetched.wire_bytes.items()))
    saved = f"saved {decimal(fetched.saved_by_deltas)} by deltas, {decimal(fetched.saved_by_peers)} by peers"
    return f"{parts or 'nothing'}; {saved}"


def _spool(spool: fleet_pb2.SpoolStatus) -> str:
    lost = f", {spool.lost} LOST" if spool.lost else ""
    size = f"{decimal(spool.bytes)} of {decimal(spool.budget_bytes)}"
    return f"{spool.entries} entries wait for the center, {size}{lost}"


def _revision(name: str) -> str:
    try:
        revision = RevisionName.parse(name)
    except BadName:
        return _plain(name)
    return f"{revision.model} {revision.hex[:_DIGITS]}"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(text: str) -> str:
    """One line without control characters: names of nodes are other people's words."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
