"""What is printed of names and digests: whole, in a pipe and on a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from cli import screen
from cli.audit import describe
from cli.fleet import status_rows
from cli.tables import channel_words, print_line, print_rows
from deltaic.v1 import audit_pb2, fleet_pb2

DIGEST = "sha256:" + "81" * 32
COLUMNS = ("channel", "revision", "bytes", "etag")
ROW = ("smollm2/stable", DIGEST, "98,362,432", '"17"')


@pytest.fixture
def pipe(monkeypatch) -> io.StringIO:
    return _console(monkeypatch, terminal=False)


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    return _console(monkeypatch, terminal=True)


def _console(monkeypatch, *, terminal: bool) -> io.StringIO:
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(screen, "console", console)
    return shown


def test_a_pipe_gets_one_whole_line_for_a_row(pipe) -> None:
    print_rows(COLUMNS, [ROW], below=[("revision",)])
    header, row = pipe.getvalue().splitlines()
    assert header.split() == list(COLUMNS)
    assert row.split() == list(ROW)


def test_a_narrow_terminal_shows_the_digest_on_its_own_line(terminal) -> None:
    print_rows(COLUMNS, [ROW], below=[("revision",)])
    lines = terminal.getvalue().splitlines()
    assert f"  {DIGEST}" in lines
    assert all(len(line) <= 80 for line in lines)
    assert '"17"' in lines[2]


def test_a_row_that_fits_stays_one_line(terminal) -> None:
    print_rows(("a", "b"), [("1", "2")], below=[("b",)])
    assert terminal.getvalue().splitlines() == ["a  b", "1  2"]


def test_a_long_name_in_a_line_is_not_wrapped(terminal) -> None:
    print_line(f"models/smollm2/channels/stable now names models/smollm2/revisions/{DIGEST}")
    assert len(terminal.getvalue().splitlines()) == 1


def test_what_others_wrote_is_shown_as_text(pipe) -> None:
    print_rows(("node", "detail"), [("edge[red]", "bad\x1b[2J\nnews")])
    assert "edge[red]  bad\ufffd[2J news" in pipe.getvalue()


def test_channels_are_short_for_people_only(monkeypatch) -> None:
    _console(monkeypatch, terminal=True)
    assert channel_words("models/m/channels/stable") == "m/stable"
    _console(monkeypatch, terminal=False)
    assert channel_words("models/m/channels/stable") == "models/m/channels/stable"


def _report(age: float, **state: object) -> fleet_pb2.NodeReport:
    report = fleet_pb2.NodeReport(node="edge@branch-with-a-name", requests=fleet_pb2.RequestCounts(answered=12))
    report.time.FromMilliseconds(int((1_000_000 - age) * 1000))
    model = fleet_pb2.ModelState(channel="models/smollm2/channels/stable", **state)
    report.models.append(model)
    return report


REVISION = f"models/smollm2/revisions/{DIGEST}"


def test_a_node_that_is_up_to_date_says_so_and_what_it_cost(monkeypatch) -> None:
    _console(monkeypatch, terminal=True)
    ready = _report(
        3.2,
        phase=fleet_pb2.ModelState.PHASE_READY,
        target_revision=REVISION,
        serving_revision=REVISION,
        progress=fleet_pb2.UpdateProgress(full_bytes=98_000_000, fetched_bytes=1, wire_bytes=81_500_000),
    )
    (row,) = status_rows([ready], 1_000_000)
    assert row[1:3] == ("ready", "3 s ago")
    assert row[-3:] == ("smollm2/stable", "818181818181", "up to date, 81.5 MB of chunks")
    _console(monkeypatch, terminal=False)
    (row,) = status_rows([ready], 1_000_000)
    assert row[-2] == DIGEST


@pytest.mark.parametrize(
    ("reused", "delta", "way"), [(2, 98, "of delta"), (0, 90, "of delta and chunks"), (60, 0, "of chunks")]
)
def test_a_node_says_how_its_update_came(reused: int, delta: int, way: str) -> None:
    progress = fleet_pb2.UpdateProgress(full_bytes=100, reused_bytes=reused, delta_bytes=delta, wire_bytes=3_000_000)
    phase = fleet_pb2.ModelState.PHASE_READY
    ready = _report(0, phase=phase, target_revision=REVISION, serving_revision=REVISION, progress=progress)
    (row,) = status_rows([ready], 1_000_000)
    assert row[-1] == f"up to date, 3.0 MB {way}"


def test_what_deltas_make_counts_as_done() -> None:
    progress = fleet_pb2.UpdateProgress(full_bytes=100, reused_bytes=10, delta_bytes=30, fetched_bytes=20)
    fetching = _report(0, phase=fleet_pb2.ModelState.PHASE_FETCHING, target_revision=REVISION, progress=progress)
    (row,) = status_rows([fetching], 1_000_000)
    assert row[-1].startswith("60 %")


def test_a_node_that_fetches_shows_how_far_it_is() -> None:
    fetching = _report(
        0,
        phase=fleet_pb2.ModelState.PHASE_FETCHING,
        target_revision=REVISION,
        progress=fleet_pb2.UpdateProgress(full_bytes=100, reused_bytes=34, fetched_bytes=50, wire_bytes=81_500_000),
    )
    (row,) = status_rows([fetching], 1_000_000)
    assert row[1] == "fetching"
    assert row[-2:] == ("nothing yet", "84 %, 81.5 MB of chunks")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, ""), (9.4, ", 9 s left"), (200, ", 3 min left"), (9_000, ", 2 h left")]
)
def test_a_node_that_fetches_shows_how_fast_and_how_long_still(seconds, words) -> None:
    progress = fleet_pb2.UpdateProgress(
        full_bytes=100, fetched_bytes=50, wire_bytes=81_500_000, bytes_per_second=12_345_678.9, seconds_left=seconds
    )
    (row,) = status_rows([_report(0, phase=fleet_pb2.ModelState.PHASE_FETCHING, progress=progress)], 1_000_000)
    assert row[-1] == f"50 %, 81.5 MB of chunks, 12.3 MB/s{words}"


@pytest.mark.parametrize(
    ("age", "phase", "heard"),
    [(29, "ready", "29 s ago"), (31, "silent", "31 s ago"), (600, "silent", "10 min ago"), (-5, "ready", "0 s ago")],
)
def test_a_node_that_was_not_heard_is_silent(age, phase, heard) -> None:
    (row,) = status_rows([_report(age, phase=fleet_pb2.ModelState.PHASE_READY)], 1_000_000)
    assert row[1:3] == (phase, heard)


def test_a_node_shows_how_busy_its_worker_is() -> None:
    load = fleet_pb2.WorkerLoad(running=3, waiting=1, parked=1, slots=4, kv_tokens=610, kv_capacity=1000)
    (row,) = status_rows([_report(0, phase=fleet_pb2.ModelState.PHASE_READY, worker=load)], 1_000_000)
    assert row[-4] == "3/4+2 61 %"
    idle = fleet_pb2.WorkerLoad(slots=4, kv_capacity=1000)
    (row,) = status_rows([_report(0, phase=fleet_pb2.ModelState.PHASE_READY, worker=idle)], 1_000_000)
    assert row[-4] == "0/4 0 %"
    (row,) = status_rows([_report(0, phase=fleet_pb2.ModelState.PHASE_LOADING)], 1_000_000)
    assert row[-4] == ""


def test_status_fits_a_terminal_of_80_columns(terminal) -> None:
    progress = fleet_pb2.UpdateProgress(
        full_bytes=100, fetched_bytes=50, wire_bytes=81_500_000, bytes_per_second=12_345_678.9, seconds_left=200
    )
    phase, load = fleet_pb2.ModelState.PHASE_FETCHING, fleet_pb2.WorkerLoad(running=3, slots=4, kv_capacity=9)
    rows = status_rows([_report(3, phase=phase, progress=progress, worker=load)], 1_000_000)
    columns = ("node", "phase", "heard", "answered", "forwarded", "failed", "busy", "channel", "serves", "update")
    print_rows(columns, rows, below=[("channel", "serves", "update")])
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)


def test_the_audit_says_from_where_to_where_a_channel_moved(pipe) -> None:
    details = {"revision": DIGEST, "previous_revision": "sha256:" + "ab" * 32}
    assert describe(audit_pb2.AuditEntry(details=details)) == "abababababab -> 818181818181"
    assert describe(audit_pb2.AuditEntry(details=details | {"previous_revision": ""})) == "nothing -> 818181818181"


def test_the_audit_says_how_large_a_published_file_is(terminal) -> None:
    entry = audit_pb2.AuditEntry(resource=REVISION, details={"file_bytes": "98362432", "request_id": "x"})
    assert describe(entry) == "smollm2, 98.4 MB"
