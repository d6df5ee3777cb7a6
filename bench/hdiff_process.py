"""HDiffPatch, as a process: hdiff_process.py diff OLD NEW DELTA | apply OLD DELTA NEW

The difference is compressed in each of the ways that compress best, and the smallest is kept as DELTA; DELTA.fast is
the one that zstd made, which applies fastest. Prints the seconds that the smallest took.
"""

import os
import sys
import time
from pathlib import Path

import hdiffpatch


def diff(old: Path, new: Path, delta: Path) -> None:
    before, after = old.read_bytes(), new.read_bytes()
    started = time.monotonic()
    fast = hdiffpatch.diff(before, after, hdiffpatch.ZStdConfig.best_compression(), validate=False)
    del before, after
    smallest = min(fast, hdiffpatch.recompress(fast, hdiffpatch.Lzma2Config.best_compression()), key=len)
    print(time.monotonic() - started)
    delta.write_bytes(smallest)
    delta.with_name(f"{delta.name}.fast").write_bytes(fast)


def apply(old: Path, delta: Path, new: Path) -> None:
    made = hdiffpatch.apply(old.read_bytes(), delta.read_bytes())
    with new.open("wb") as file:
        file.write(made)
        os.fsync(file.fileno())


if __name__ == "__main__":
    {"diff": diff, "apply": apply}[sys.argv[1]](*(Path(word) for word in sys.argv[2:]))
