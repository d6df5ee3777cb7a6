"""The harness of the benches measures what it says, and its tables replace themselves."""

import json
import sys
import time
from pathlib import Path

import harness
import pytest
import tables
from harness import BenchFailed, Report, against_peer, at_least, in_turn, measure, middle, within

HOLD_40_MIB = "held = bytearray(40 << 20); print(len(held))"


def test_a_peak_counts_the_process_and_not_the_bench() -> None:
    held = b"x" * (200 << 20)
    usage = measure([sys.executable, "-c", HOLD_40_MIB])
    assert usage.output == f"{40 << 20}\n"
    assert 40 << 20 < usage.peak_rss_bytes < len(held) / 2
    assert usage.cpu_s > 0
    assert usage.wall_s > 0


def test_the_cost_of_children_counts() -> None:
    usage = measure(["sh", "-c", f"{sys.executable} -c '{HOLD_40_MIB}'; true"])
    assert usage.peak_rss_bytes > 40 << 20


@pytest.mark.parametrize("command", [["sh", "-c", "echo why >&2; exit 3"], ["no-such-program"]])
def test_a_side_that_fails_is_no_measurement(command: list[str]) -> None:
    with pytest.raises(BenchFailed, match=command[0]) as raised:
        measure(command)
    assert "why" in str(raised.value) or "No such file" in str(raised.value)


def test_a_side_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with pytest.raises(BenchFailed, match="did not end"):
        measure(["sh", "-c", f"mkfifo {fifo}; sh -c 'echo $$ > pid; exec cat {fifo}'"], folder=tmp_path, timeout=0.5)
    pid = (tmp_path / "pid").read_text().strip()
    facts = Path(f"/proc/{pid}/stat")
    until = time.monotonic() + 10
    while facts.exists() and facts.read_text().split()[2] != "Z":
        assert time.monotonic() < until, "a killed process goes away"
        time.sleep(0.01)


def test_sides_take_turns_and_the_middle_is_the_median() -> None:
    order: list[str] = []
    seconds = iter([5.0, 50.0, 1.0, 10.0, 3.0, 30.0])

    def side(name: str) -> harness.Usage:
        order.append(name)
        wall = next(seconds)
        return harness.Usage(wall, wall / 2, int(wall))

    seen = in_turn({"ours": lambda: side("ours"), "peer": lambda: side("peer")}, 3)
    assert order == ["ours", "peer"] * 3
    assert middle(seen["ours"]) == harness.Usage(3.0, 1.5, 5)


def test_a_bar_holds_up_to_its_ratio() -> None:
    assert against_peer("time", "case", "s", 1.0, 2.0, peer_name="peer", bar=0.5).holds is True
    assert against_peer("time", "case", "s", 1.01, 2.0, peer_name="peer", bar=0.5).holds is False
    assert against_peer("time", "case", "s", 1.0, 2.0, peer_name="peer").holds is None
    assert within("memory", "case", "MiB", 65.0, allowed=64.0).holds is False
    assert within("repeated", "case", "chunks", 0, allowed=0).holds is True
    assert at_least("chance", "case", "", 0.5, needed=0.01).ratio == pytest.approx(0.02)
    assert at_least("chance", "case", "", 0.001, needed=0.01).holds is False
    with pytest.raises(BenchFailed):
        against_peer("time", "case", "s", 1.0, 0.0, peer_name="peer")


def test_a_report_is_written_as_json_and_into_its_place_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- bench:one -->\nstale figures\n<!-- /bench:one -->\n\nText that a person wrote.\n")
    monkeypatch.setattr(harness, "PAGE", page)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    for _ in range(2):
        report = Report("one", "make bench-one")
        report.add(against_peer("time", "case", "s", 1.0, 2.0, peer_name="peer", bar=0.25))
        path = report.write()
    result = json.loads(path.read_text())
    assert result["rows"][0]["ratio"] == 0.5
    assert result["machine"]["cores"] >= 1
    assert not report.holds
    text = page.read_text()
    assert text.count("| 0.500 | 0.25 | **no** | time | case | 1 s | 2 s | peer |") == 1
    assert "stale" not in text
    assert text.endswith("Text that a person wrote.\n")


def test_a_bench_without_markers_gets_them_at_the_end_of_the_page() -> None:
    page = tables.put("# Page\n", "two", "table")
    assert page == "# Page\n\n<!-- bench:two -->\ntable\n<!-- /bench:two -->\n"
    assert tables.put(page, "two", "other") == page.replace("table", "other")
