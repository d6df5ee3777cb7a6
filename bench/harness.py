"""What every bench uses: measure whole processes, run both sides in turn, write down what was seen.

    usage = measure(["xdelta3", "-e", ...])              # wall, CPU and peak memory of one process and its children
    seen = in_turn({"ours": ours, "peer": peer}, 5)      # functions that return a Usage, alternating
    report = Report("delta", "make bench-delta", notes="…")
    report.add(against_peer("encoding time", "Q4_0", "s", 1.2, 30.0, peer_name="bsdiff4", bar=0.05))
    report.add(within("peak memory", "Q4_0", "MiB", 41.0, allowed=64.0))
    report.write()                                       # bench/results/delta.json and its table in docs/benchmarks.md

A ratio is ours divided by the peer's: smaller is better, whatever the unit. Give times, bytes and memory; never speeds.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import tables

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
MIB = 1 << 20

_SPAWN = REPOSITORY / "bench" / "spawn.py"
_OUTPUTS = (":!bench/results", ":!docs/benchmarks.md")


class BenchFailed(Exception):
    """A side did not do its work, so there is nothing to compare; the message says what to do."""


class TooSlow(BenchFailed):
    """A program was given up after the seconds that it had."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and the children that it waited for took; the peak is that of the largest of them."""

    wall_s: float
    cpu_s: float
    """User and system together."""
    peak_rss_bytes: int
    output: str = ""
    """What it wrote to its standard output."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` is ours / peer; `bar` the largest ratio that is good enough; None where there is none."""

    metric: str
    case: str
    unit: str
    ours: float
    peer: float
    ratio: float
    bar: float | None
    holds: bool | None
    peer_name: str
    runs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Single measurements behind a median, by side, where there are any."""


def measure(
    command: Sequence[str | Path],
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> Usage:
    """Run a program to its end, `timeout` in seconds. Raises BenchFailed when it fails, with what it said."""
    with tempfile.NamedTemporaryFile() as facts_file:
        spawn = [sys.executable, "-I", "-S", _SPAWN, facts_file.name, folder or Path.cwd(), *command]
        started = subprocess.Popen(
            [str(word) for word in spawn],
            env=None if environ is None else {**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TooSlow(f"{_named(command)} did not end within {timeout:g} s") from None
        finally:
            if started.poll() is None:  # timed out, or Ctrl-C: what it had started goes with it
                os.killpg(started.pid, signal.SIGKILL)
                started.communicate()
        facts = json.loads(facts_file.read() or b'{"status": "no program"}')
    if facts.pop("status") != 0:
        raise BenchFailed(f"{_named(command)} failed:\n{output}{errors}")
    return Usage(**facts, output=output)


def in_turn(sides: Mapping[str, Callable[[], Usage]], repetitions: int) -> dict[str, list[Usage]]:
    """Every side once, in order, then again: what else the machine does falls on all of them alike."""
    seen: dict[str, list[Usage]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, run in sides.items():
            seen[name].append(run())
    return seen


def middle(usages: Sequence[Usage]) -> Usage:
    """The median of each number on its own; the largest peak, since that is what a machine must have."""
    return Usage(
        median(each.wall_s for each in usages),
        median(each.cpu_s for each in usages),
        max(each.peak_rss_bytes for each in usages),
        usages[-1].output,
    )


def against_peer(
    metric: str,
    case: str,
    unit: str,
    ours: float,
    peer: float,
    *,
    peer_name: str,
    bar: float | None = None,
    runs: Mapping[str, Sequence[float]] | None = None,
) -> Row:
    """Ours beside a peer's; `bar` is the largest ratio that is good enough. Raises BenchFailed when the peer is 0."""
    if not peer > 0:
        raise BenchFailed(f"{metric}, {case}: {peer_name} measured as {peer}")
    ratio = ours / peer
    holds = None if bar is None else ratio <= bar
    return Row(metric, case, unit, ours, peer, ratio, bar, holds, peer_name, runs or {})


def within(metric: str, case: str, unit: str, ours: float, *, allowed: float) -> Row:
    """Ours beside what is allowed, for bars that name an amount and no peer; nothing may be allowed, too."""
    ratio = ours / allowed if allowed else float(ours > 0)
    return Row(metric, case, unit, ours, allowed, ratio, 1.0, ours <= allowed, "allowed")


def at_least(metric: str, case: str, unit: str, ours: float, *, needed: float) -> Row:
    """Ours beside the least that is good enough, for a figure of which more is better: the ratio is turned round.

    Raises BenchFailed when ours is 0.
    """
    if not ours > 0:
        raise BenchFailed(f"{metric}, {case}: measured as {ours}")
    return Row(metric, case, unit, ours, needed, needed / ours, 1.0, ours >= needed, "needed")


class Report:
    """The rows of one bench run."""

    def __init__(self, name: str, command: str, *, notes: str = "") -> None:
        """`name` names the files, `command` repeats the run, `notes` (Markdown) says how it was measured."""
        self._name = name
        self._facts: dict[str, Any] = {
            **commit(),
            "machine": machine(),
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "notes": notes,
        }
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Also says it, since a bench takes minutes."""
        self.rows.append(row)
        print(f"    {tables.line(asdict(row))}", flush=True)

    def note(self, text: str) -> None:
        """One more thing to know about how it was measured (Markdown)."""
        self._facts["notes"] += f"\n\n{text}"

    @property
    def holds(self) -> bool:
        """Whether every bar does."""
        return all(row.holds is not False for row in self.rows)

    def write(self) -> Path:
        """Write the JSON, and its table into docs/benchmarks.md; the path of the JSON."""
        result = {**self._facts, "rows": [asdict(row) for row in self.rows]}
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self._name}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        text = PAGE.read_text() if PAGE.exists() else tables.EMPTY_PAGE
        PAGE.write_text(tables.put(text, self._name, tables.render(result)))
        return path


def finish(report: Report) -> int:
    """Write the report and say whether its bars hold; the exit status of a bench."""
    path = report.write()
    print(f"    {'every bar holds' if report.holds else 'NOT every bar holds'}: {path.relative_to(REPOSITORY)}")
    return 0 if report.holds else 1


def commit() -> dict[str, Any]:
    """The commit that is checked out, and whether anything but results differs from it."""
    if not (REPOSITORY / ".git").exists():
        return {"commit": "unknown", "dirty": True}
    git = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    status = [*git, "status", "--porcelain", "--", ".", *_OUTPUTS]
    changes = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    return {"commit": head, "dirty": bool(changes.strip())}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    total_kib = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(total_kib / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def require(programs: Mapping[str, str]) -> None:
    """Raises BenchFailed unless every program is installed; `programs` maps each to the package that has it."""
    if missing := [package for program, package in programs.items() if shutil.which(program, path=_PATH) is None]:
        raise BenchFailed(f"needed to measure: sudo apt-get install -y {' '.join(sorted(set(missing)))}")


def program(name: str) -> str:
    """The path of a program; servers lie in folders that not everybody searches. Raises BenchFailed."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise BenchFailed(f"{name} is not installed")
    return found


@contextmanager
def scratch(needed_bytes: int) -> Iterator[Path]:
    """A folder on the disk of this repository (never a memory file system), removed at the end.

    `DELTAIC_BENCH_FOLDER` names another place. Raises BenchFailed when it has less than `needed_bytes`.
    """
    base = Path(os.environ.get("DELTAIC_BENCH_FOLDER") or REPOSITORY / "build")
    base.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(base).free) < needed_bytes:
        raise BenchFailed(f"{base} has {free // MIB:,} MiB free and {needed_bytes // MIB:,} MiB are needed")
    with tempfile.TemporaryDirectory(dir=base, prefix="bench-") as folder:
        yield Path(folder)


_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _named(command: Sequence[str | Path]) -> str:
    return " ".join(Path(str(word)).name for word in command[:3])
