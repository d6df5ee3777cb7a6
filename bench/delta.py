#!/usr/bin/env python3
"""Deltas beside their peers, on real consecutive versions of a real model.

Encodes each pair with `deltaic diff` and with bsdiff4 (quantised types), xdelta3 (floats), zstd alone, zstd
--patch-from and HDiffPatch, all in this run; applies with `deltaic patch` and HDiffPatch in turn. Versions that are
missing are trained first (minutes each). All of it takes more than an hour on two cores, `--quick` 4 minutes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from delta_pairs import KINDS, Pair, pairs_of, trained_kinds
from delta_sides import PEERS, apply_hdiffpatch, apply_ours, bare_interpreter, bsdiff4, ours, peers_of
from finetunes import FORMATS, cache_folder
from harness import (
    MIB,
    BenchFailed,
    Report,
    TooSlow,
    Usage,
    against_peer,
    finish,
    in_turn,
    middle,
    require,
    scratch,
    within,
)

NOTES = """\
Sizes are percent of the new file. Pairs: two consecutive versions of SmolLM2-135M (`bench/finetunes.py`): light and
strong fine-tunes of all weights, a rank-16 LoRA merged into bfloat16 weights, a sparse step in bfloat16; requant: the
same weights in another format. Each side is a whole process on whole files. Peers: bsdiff4 (Python package),
xdelta3 -S lzma with a source window that holds the file, zstd -9 --long=31, HDiffPatch (Python package) with the
smaller of its zstd and LZMA2 at best compression. Encoding times beside bsdiff4 were measured with nothing beside
them; sizes of peers two at a time. Applying includes starting Python and writing the file durably on both sides,
SHA-256 of the result on ours; HDiffPatch applies its zstd delta, which is its fastest. Memory is the peak of `deltaic
patch` above that of `python -c pass`."""

_REPETITIONS = 3
_SIZE_BAR = {True: ("bsdiff4", 0.6), False: ("xdelta3", 0.5)}
_ENCODE_BAR = 1 / 20
_MEMORY_MIB = 64.0


class Bench:
    """Measures pair after pair into a report."""

    def __init__(self, report: Report, folder: Path, timed_kind: str) -> None:
        """For pairs of `timed_kind` bsdiff4's time counts, so nothing runs beside it."""
        self._report = report
        self._folder = folder
        self._timed_kind = timed_kind
        self.best_ratios: list[float] = []
        self.peaks: dict[str, int] = {}

    def measure(self, pair: Pair) -> None:
        delta, peer_delta = self._folder / "ours.delta", self._folder / "hdiffpatch.delta"
        timed = pair.quantised and pair.kind == self._timed_kind
        encodings = [ours(pair, delta) for _ in range(_REPETITIONS if timed else 1)]
        sizes = self._peer_sizes(pair, encodings if timed else [])
        self._sizes(pair, delta.stat().st_size, sizes)
        if "HDiffPatch" in sizes:
            self._applying(pair, delta, peer_delta)
        for left in self._folder.iterdir():
            left.unlink()

    def _peer_sizes(self, pair: Pair, encodings: Sequence[Usage]) -> dict[str, int]:
        """The bytes of each peer's delta; where our encodings are given, bsdiff4 is timed beside them."""
        waiting = peers_of(pair)
        if encodings:
            waiting.remove("bsdiff4")
            peer = bsdiff4(pair, self._folder / "bsdiff4.delta")
            own = middle(encodings)
            runs = {"ours": [each.wall_s for each in encodings], "bsdiff4": [peer.wall_s]}
            self._report.add(
                against_peer(
                    *("encoding time", pair.case, "s", own.wall_s, peer.wall_s),
                    peer_name="bsdiff4",
                    bar=_ENCODE_BAR,
                    runs=runs,
                )
            )
        with ThreadPoolExecutor(2) as pool:
            ended = dict(zip(waiting, pool.map(partial(self._ends, pair), waiting), strict=True))
        done = [name for name in peers_of(pair) if ended.get(name, True)]
        return {name: (self._folder / _file_name(name)).stat().st_size for name in done}

    def _ends(self, pair: Pair, peer: str) -> bool:
        """Whether the peer makes its delta in time; one that does not is left out of this pair, and said."""
        try:
            PEERS[peer](pair, self._folder / _file_name(peer))
        except TooSlow as slow:
            self._report.note(f"Without {peer} for {pair.case}: {slow}.")
            return False
        return True

    def _sizes(self, pair: Pair, size: int, peers: dict[str, int]) -> None:
        whole = pair.new.stat().st_size / 100
        name, bar = _SIZE_BAR[pair.quantised]
        if pair.form and name in peers:
            beside = against_peer("size", pair.case, "%", size / whole, peers[name] / whole, peer_name=name, bar=bar)
            self._report.add(beside)
        others = {name: peers[name] for name in ("zstd", "zstd --patch-from", "HDiffPatch") if name in peers}
        best = min(others, key=lambda name: others[name])
        self._report.add(
            against_peer("size", pair.case, "%", size / whole, others[best] / whole, peer_name=best, bar=1.0)
        )
        if pair.form:
            self.best_ratios.append(size / min(peers.values()))

    def _applying(self, pair: Pair, delta: Path, peer_delta: Path) -> None:
        made = self._folder / "made.gguf"
        sides = {
            "ours": lambda: apply_ours(pair, delta, made),
            "HDiffPatch": lambda: apply_hdiffpatch(pair, peer_delta, made),
        }
        seen = in_turn(sides, _REPETITIONS)
        own, peer = middle(seen["ours"]), middle(seen["HDiffPatch"])
        runs = {name: [each.wall_s for each in usages] for name, usages in seen.items()}
        self._report.add(
            against_peer(
                *("applying time", pair.case, "s", own.wall_s, peer.wall_s), peer_name="HDiffPatch", bar=1.0, runs=runs
            )
        )
        self.peaks[pair.label] = max(self.peaks.get(pair.label, 0), own.peak_rss_bytes)

    def summary(self) -> None:
        """Memory by format, the most of all kinds; and sizes beside the best of all peers, which have no bar."""
        bare = bare_interpreter().peak_rss_bytes
        for label, peak in self.peaks.items():
            above = (peak - bare) / MIB
            self._report.add(within("applying memory", label, "MiB", above, allowed=_MEMORY_MIB))
        if not self.best_ratios:
            return
        for name, ratio in (("median", median(self.best_ratios)), ("worst", max(self.best_ratios))):
            row = against_peer("size", f"{name} of all pairs", "of it", ratio, 1.0, peer_name="the pair's best peer")
            self._report.add(row)


def _file_name(peer: str) -> str:
    return f"{peer.lower().replace(' ', '')}.delta"


def ready(kinds: Sequence[str], formats: Sequence[str], folder: Path) -> None:
    """Train what is missing, in a process of its own: torch is large. Raises BenchFailed."""
    command = [sys.executable, str(Path(__file__).with_name("finetunes.py")), "--out", str(folder)]
    command += ["--kinds", *trained_kinds(kinds), "--formats", *formats]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
        raise BenchFailed("the versions to measure could not be made")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--quick", action="store_true", help="light fine-tunes in Q4_0 and BF16 only")
    parser.add_argument("--pairs", type=Path, default=cache_folder() / "bench-pairs", help="where the versions lie")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no pair after so long, and say which")
    options = parser.parse_args()
    kinds, formats = (("light",), ("Q4_0", "BF16")) if options.quick else (options.kinds, options.formats)
    try:
        require({"xdelta3": "xdelta3", "zstd": "zstd"})
        ready(kinds, formats, options.pairs)
        report = Report("delta", " ".join(["make bench-delta", *_arguments()]), notes=NOTES)
        with scratch(3 << 30) as folder:
            bench = Bench(report, folder, kinds[0])
            until = time.monotonic() + 60 * options.minutes
            late = []
            for pair in pairs_of(kinds, formats, options.pairs):
                if time.monotonic() < until:
                    bench.measure(pair)
                else:
                    late.append(pair.case)
            bench.summary()
            if late:
                report.note(f"Not measured, since the {options.minutes:g} minutes were over: {'; '.join(late)}.")
            if absent := [*sorted(set(KINDS) - set(kinds)), *sorted(set(FORMATS) - set(formats))]:
                report.note(f"Left out of this run: {', '.join(absent)}.")
    except BenchFailed as failed:
        print(f"bench: {failed}", file=sys.stderr)
        return 1
    if not options.quick:
        return finish(report)
    print(f"    {'every bar holds' if report.holds else 'NOT every bar holds'}; a quick run is not recorded")
    return 0 if report.holds else 1


def _arguments() -> list[str]:
    return [f"ARGS='{' '.join(sys.argv[1:])}'"] if sys.argv[1:] else []


if __name__ == "__main__":
    raise SystemExit(main())
