"""How each side makes and applies a delta: whole processes on whole files, as a person would run them."""

import sys
from collections.abc import Callable
from pathlib import Path

from delta_pairs import Pair
from harness import BenchFailed, Usage, measure, program

_BIN = Path(sys.executable).parent
_OURS = (_BIN / "deltaic",)
_HERE = Path(__file__).parent
_ZSTD = ("-q", "-f", "-T1", "-9", "--long=31")
_XDELTA3 = ("-q", "-f", "-e", "-S", "lzma", "-B", str(512 << 20))

Encode = Callable[[Pair, Path], Usage]
"""Makes a delta of a pair at a path."""


def ours(pair: Pair, delta: Path) -> Usage:
    return measure([*_OURS, "diff", pair.old, pair.new, "-o", delta])


def bsdiff4(pair: Pair, delta: Path) -> Usage:
    return measure([_BIN / "bsdiff4", pair.old, pair.new, delta])


def xdelta3(pair: Pair, delta: Path) -> Usage:
    return measure([program("xdelta3"), *_XDELTA3, "-s", pair.old, pair.new, delta])


def zstd_patch(pair: Pair, delta: Path) -> Usage:
    return measure([program("zstd"), *_ZSTD, f"--patch-from={pair.old}", pair.new, "-o", delta])


def zstd(pair: Pair, delta: Path) -> Usage:
    return measure([program("zstd"), *_ZSTD, pair.new, "-o", delta])


def hdiffpatch(pair: Pair, delta: Path) -> Usage:
    return measure([sys.executable, _HERE / "hdiff_process.py", "diff", pair.old, pair.new, delta])


PEERS: dict[str, Encode] = {
    "bsdiff4": bsdiff4,
    "xdelta3": xdelta3,
    "zstd --patch-from": zstd_patch,
    "zstd": zstd,
    "HDiffPatch": hdiffpatch,
}


def peers_of(pair: Pair) -> list[str]:
    """Who is measured on a pair: bsdiff4 where types are quantised, xdelta3 on floats, the others everywhere."""
    first = ["bsdiff4"] if pair.quantised else ["xdelta3"] if pair.form else []
    return [*first, "zstd --patch-from", "zstd", "HDiffPatch"]


def apply_ours(pair: Pair, delta: Path, made: Path) -> Usage:
    return _applied([*_OURS, "patch", pair.old, delta, "-o", made], pair, made)


def apply_hdiffpatch(pair: Pair, delta: Path, made: Path) -> Usage:
    """From the delta that applies fastest."""
    fast = delta.with_name(f"{delta.name}.fast")
    return _applied([sys.executable, _HERE / "hdiff_process.py", "apply", pair.old, fast, made], pair, made)


def bare_interpreter() -> Usage:
    return measure([sys.executable, "-c", "pass"])


def _applied(command: list[str | Path], pair: Pair, made: Path) -> Usage:
    usage = measure(command)
    if not _same(made, pair.new):
        raise BenchFailed(f"{pair.case}: {command[0]} did not make {pair.new.name}")
    made.unlink()
    return usage


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        return all(left == b.read(len(left)) for left in iter(lambda: a.read(1 << 20), b""))
