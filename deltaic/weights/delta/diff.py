"""Writes a delta between two whole files into one file, without any service: the index, then the packs, in order."""

from pathlib import Path
from typing import BinaryIO

from deltaic.weights.delta.encode import Progress, encode
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.delta.whole_file import appearing

_BLOCK_BYTES = 1 << 20


def write_delta(
    source: Path, target: Path, delta: Path, *, jobs: int = 0, on_progress: Progress | None = None
) -> DeltaIndex:
    """Encode the way from `source` to `target` into one file, which appears whole. Raises what `encode` raises."""
    packs = delta.with_name(f".{delta.name}.packs")
    try:
        with packs.open("w+b") as kept:
            index = encode(source, target, lambda _, data: _write(kept, data), jobs=jobs, on_progress=on_progress)
            kept.seek(0)
            with appearing(delta) as file:
                file.write(index.data)
                while block := kept.read(_BLOCK_BYTES):
                    file.write(block)
    finally:
        packs.unlink(missing_ok=True)
    return index


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
