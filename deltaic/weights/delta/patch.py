"""Makes a whole file out of another and a delta in one file, without any service."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from deltaic.weights.delta.apply import ReadSource, make_chunk
from deltaic.weights.delta.index import PREAMBLE_BYTES, DeltaIndex, Part, index_length
from deltaic.weights.delta.whole_file import appearing
from deltaic.weights.digest import Buffer
from deltaic.weights.errors import DigestMismatch, WrongBase

Progress = Callable[[int, int], None]
_THREADS = 1
_MAKING_BYTES = 3 << 20
"""Chunks that are made at the same time have together at most so many bytes (a single one may have more)."""


def read_index(delta: Path) -> DeltaIndex:
    """The index of a delta file. Raises BadDelta, UnknownDelta, OSError."""
    with delta.open("rb") as file:
        return _read_index(file)


def apply_delta(source: Path, delta: Path, target: Path, *, on_progress: Progress | None = None) -> DeltaIndex:
    """Make `target` from `source`, verified as a whole before it gets its name.

    Raises BadDelta, UnknownDelta, WrongBase, DigestMismatch (the delta is damaged), OSError; then there is no target.
    """
    with delta.open("rb") as packs, source.open("rb", buffering=0) as old:
        index = _read_index(packs)
        if (size := os.fstat(old.fileno()).st_size) != index.source.size:
            raise WrongBase(
                f"{source.name} has {size:,} bytes; this delta is from a file of {index.source.size:,}",
                hint=f"apply it to the file with {index.source}",
            )
        whole = hashlib.sha256()
        with appearing(target) as file:
            for part, chunk in _chunks(index, packs, lambda offset, length: os.pread(old.fileno(), length, offset)):
                whole.update(chunk)
                file.write(chunk)
                if on_progress:
                    on_progress(part.target_offset + part.target_length, index.target.size)
            if whole.digest() != index.target.sha256:
                raise _blame(source, index)
    return index


def _chunks(index: DeltaIndex, packs: BinaryIO, read: ReadSource) -> Iterator[tuple[Part, Buffer]]:
    """The chunks of the target in order, made by threads while those before are hashed and written."""
    with ThreadPoolExecutor(_THREADS) as pool:
        making: deque[tuple[Part, Future[Buffer]]] = deque()
        try:
            for part in index.parts:
                while making and sum(one.target_length for one, _ in making) + part.target_length > _MAKING_BYTES:
                    first, chunk = making.popleft()
                    yield first, chunk.result()
                making.append((part, pool.submit(make_chunk, index, part, read, packs.read(part.payload_length))))
            while making:
                first, chunk = making.popleft()
                yield first, chunk.result()
        finally:
            for _, chunk in making:
                chunk.cancel()


def _blame(source: Path, index: DeltaIndex) -> Exception:
    """What is wrong when the result is: the file that was given, or the delta."""
    with source.open("rb") as file:
        given = hashlib.file_digest(file, "sha256").digest()
    if given != index.source.sha256:
        return WrongBase(
            f"{source.name} is not the file that this delta is from", hint=f"apply it to the file with {index.source}"
        )
    return DigestMismatch("the delta is damaged: what it makes is not what it promises", hint="copy the delta again")


def _read_index(file: BinaryIO) -> DeltaIndex:
    start = file.read(PREAMBLE_BYTES)
    return DeltaIndex.parse(start + file.read(index_length(start) - len(start)))
