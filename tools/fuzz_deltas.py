#!/usr/bin/env python3
"""Apply mutated deltas, and see that each ends in a verified file or in an error of our own.

    fuzz_deltas.py --count 100000 --out bench/results/fuzz-delta.json
    fuzz_deltas.py --only 4711                          again the case that a run (with the same options) has named

Real deltas between tiny files of every tensor type are mutated: the bytes of the index, what is in it, payloads and
what their frames hold, packs, the source. A case must end in the file that the index promises or in a DeltaicError;
it must not touch any other file, take more CPU time or allocate more memory than it is given. The seed and the number
of a case make the case.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from delta_mutations import MUTATIONS, mutate
from delta_seeds import Seed, make_large_seeds, make_seeds
from delta_surgery import wrap

from deltaic.errors import DeltaicError
from deltaic.weights.delta.apply import make_chunk
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.delta.patch import apply_delta
from deltaic.weights.errors import DigestMismatch

CPU_SECONDS = 5.0
"""What one case may take; a case makes at most some hundred chunks."""
TRACED_BYTES = 128 << 20
"""What one case may have allocated at its peak."""
LARGE_EVERY = 250
"""One case in so many is of a whole chunk, where memory matters; its memory is always looked at."""
ADDRESS_SPACE_BYTES = 1 << 30
"""What this process may map beyond what it has mapped when the cases begin: more is a MemoryError, and a failure."""

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Case:
    """A mutated delta, and the source that it is applied to."""

    kind: str
    large: bool
    index: bytes
    packs: bytes
    source: bytes


@dataclass(slots=True)
class Findings:
    """What came of the cases so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    most_traced_bytes: int = 0
    cases: int = 0


def draw(random: Random, seeds: Sequence[Seed], large_seeds: Sequence[Seed]) -> Case:
    """A case: one seed and one to three mutations."""
    large = bool(large_seeds) and int(random.integers(LARGE_EVERY)) == 0
    choice = large_seeds if large else seeds
    seed = choice[int(random.integers(len(choice)))]
    delta, source, kinds = seed.anatomy.copy(), seed.source, []
    for _ in range(int(random.choice((1, 1, 1, 2, 3)))):
        kind = str(random.choice((*MUTATIONS, "index bytes", "inside the index", "source bytes")))
        kinds.append(kind)
        if kind in MUTATIONS:
            MUTATIONS[kind](random, delta)
    raw = delta.raw_index()
    if "inside the index" in kinds:
        raw = mutate(random, raw, within=int(random.choice((0, 100))))
    index = wrap(raw)
    if "index bytes" in kinds:
        index = mutate(random, index, within=int(random.choice((0, 16))))
        index = index[: int(random.integers(len(index) + 1))] if random.random() < 0.2 else index
    if "source bytes" in kinds:
        source = mutate(random, source) if random.random() < 0.5 else source[: int(random.integers(len(source)))]
    return Case(", ".join(kinds), large, index, b"".join(delta.packs), source)


def apply_in_memory(case: Case) -> None:
    """What a node does: parse, then make chunk after chunk. Raises DeltaicError unless the promised file was made."""
    index = DeltaIndex.parse(case.index)
    starts = [0]
    for pack in index.packs:
        starts.append(starts[-1] + pack.size)
    whole, size = sha256(), 0
    for part in index.parts:
        start = starts[part.pack] + part.payload_offset if part.pack >= 0 else 0
        payload = case.packs[start : start + part.payload_length]
        chunk = make_chunk(index, part, lambda offset, length: case.source[offset : offset + length], payload)
        if len(chunk) != part.target_length:
            raise AssertionError(f"a chunk of {len(chunk)} bytes where the part says {part.target_length}")
        whole.update(chunk)
        size += len(chunk)
    if (whole.digest(), size) != (index.target.sha256, index.target.size):
        raise DigestMismatch("not the file that was promised")


def apply_files(case: Case, folder: Path) -> None:
    """What `deltaic patch` does, and that it leaves a verified target or nothing. Raises DeltaicError."""
    old, delta, new = (folder / name for name in ("old.gguf", "delta", "new.gguf"))
    old.write_bytes(case.source)
    delta.write_bytes(case.index + case.packs)
    made = False
    try:
        index = apply_delta(old, delta, new)
        made = True
    finally:
        left = {path.name for path in folder.iterdir()}
        if left != {"old.gguf", "delta"} | ({"new.gguf"} if made else set()) or old.read_bytes() != case.source:
            raise AssertionError(f"files were touched that must not be: {sorted(left)}")
        content = new.read_bytes() if made else b""
        new.unlink(missing_ok=True)
    if sha256(content).digest() != index.target.sha256:
        raise AssertionError("a file appeared that is not what was promised")


def run_case(number: int, case: Case, folder: Path, findings: Findings) -> None:
    """Apply a case and note how it ended."""
    traced = case.large or number % 16 == 0
    started = time.process_time()
    if traced:
        tracemalloc.start()
    try:
        if number % 8 == 1:
            apply_files(case, folder)
        else:
            apply_in_memory(case)
        outcome = "verified"
    except DeltaicError as error:
        outcome = type(error).__name__
    except Exception as error:  # noqa: BLE001  # whatever else comes out is what this program looks for
        outcome = "FAILED"
        findings.failures.append(f"case {number} ({case.kind}): {type(error).__name__}: {error}")
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        findings.most_traced_bytes = max(findings.most_traced_bytes, peak)
        if peak > TRACED_BYTES:
            findings.failures.append(f"case {number} ({case.kind}): allocated {peak:,} bytes")
    took = time.process_time() - started
    findings.slowest_ms = max(findings.slowest_ms, 1000 * took)
    if took > CPU_SECONDS * (4 if traced else 1):  # tracing costs several times what is traced
        findings.failures.append(f"case {number} ({case.kind}): took {took:.1f} s")
    findings.outcomes[outcome] += 1
    findings.kinds.update(case.kind.split(", "))
    findings.cases += 1


def fuzz(options: argparse.Namespace, seeds: Sequence[Seed], large_seeds: Sequence[Seed]) -> Findings:
    findings = Findings()
    end = time.monotonic() + options.seconds if options.seconds else float("inf")
    numbers: Iterator[int] = iter([options.only]) if options.only is not None else count()
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            if findings.cases >= options.count or time.monotonic() > end or len(findings.failures) >= 20:
                break
            case = draw(np.random.default_rng([options.seed, number]), seeds, large_seeds)
            run_case(number, case, Path(folder), findings)
    return findings


def _limit_memory() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))


def report(options: argparse.Namespace, seeds: Sequence[Seed], findings: Findings, took: float) -> dict[str, Any]:
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "commit": git.stdout.strip() or "unknown",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "command": " ".join(["tools/fuzz_deltas.py", *sys.argv[1:]]),
        "seed": options.seed,
        "cases": findings.cases,
        "seconds": round(took, 1),
        "failures": findings.failures,
        "outcomes": dict(findings.outcomes.most_common()),
        "mutations": dict(sorted(findings.kinds.items())),
        "codecs_of_the_deltas": dict(sorted(sum((seed.codecs for seed in seeds), Counter[str]()).items())),
        "deltas": [seed.name for seed in seeds],
        "slowest_ms": round(findings.slowest_ms, 1),
        "most_allocated_bytes": findings.most_traced_bytes,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="cases, at most")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this long; 0: never")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="no deltas of whole chunks, which take seconds to make")
    parser.add_argument("--only", type=int, help="run only this case")
    parser.add_argument("--out", type=Path, help="write the findings here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(options.seed)
        seeds = make_seeds(random, Path(folder))
        large_seeds = [] if options.small else make_large_seeds(random, Path(folder))
    warnings.simplefilter("error")  # a warning of NumPy about what a stranger sent is a line in a log for each
    started = time.monotonic()
    findings = fuzz(options, seeds, large_seeds)
    found = report(options, [*seeds, *large_seeds], findings, time.monotonic() - started)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    for failure in findings.failures:
        print(failure, file=sys.stderr)
    ended = ", ".join(f"{number:,} {name}" for name, number in findings.outcomes.most_common())
    print(
        f"{findings.cases:,} mutated deltas in {found['seconds']} s: {len(findings.failures)} failures; {ended};"
        f" slowest {found['slowest_ms']} ms, at most {findings.most_traced_bytes / 2**20:.0f} MiB allocated"
    )
    return 1 if findings.failures or not findings.cases else 0


if __name__ == "__main__":
    raise SystemExit(main())
