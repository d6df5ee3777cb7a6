"""Describes a GGUF file: vets it, lays it out and hashes it, once from front to back.

Both hashes, of every chunk and of the whole file, are fed from one buffer of one chunk: a model of any size is built
with 4 MiB of it in memory.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from deltaic.weights.chunks import MAX_CHUNK_BYTES, Extent, split
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadLayout, Truncated
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.layout import LayoutSegment
from deltaic.weights.model_file import ModelFile, Segment, check_file_name


def describe(path: Path, on_progress: Callable[[int], None] | None = None) -> ModelFile:
    """What the file is made of. Raises NotGGUF, Truncated, BadLayout, BadManifest, OSError."""
    check_file_name(path.name)
    with path.open("rb", buffering=0) as file:
        before = _identity(os.fstat(file.fileno()))
        layout = read_layout(path)
        hasher = _StreamHasher(file, on_progress)
        segments = tuple(hasher.segment(one) for one in layout.segments)
        if _identity(path.stat()) != before:
            raise BadLayout("the file was changed while it was read", hint="publish a file that nobody writes to")
    return ModelFile(path.name, hasher.digest(), layout.architecture, segments)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class _StreamHasher:
    """Hashes a file's chunks and the whole of it in the same pass."""

    def __init__(self, file: BinaryIO, on_progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._on_progress = on_progress
        self._buffer = memoryview(bytearray(MAX_CHUNK_BYTES))
        self._whole = hashlib.sha256()
        self.done = 0

    def segment(self, laid_out: LayoutSegment) -> Segment:
        chunks = tuple(self._chunk(extent) for extent in split(laid_out))
        return Segment(
            laid_out.kind,
            laid_out.name,
            laid_out.ggml_type,
            laid_out.shape,
            laid_out.offset,
            laid_out.length,
            chunks,
        )

    def _chunk(self, extent: Extent) -> Digest:
        view = self._buffer[: extent.length]
        filled = 0
        while filled < extent.length:
            count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise Truncated("the file became shorter while it was read")
            filled += count
        self._whole.update(view)
        self.done += extent.length
        if self._on_progress:
            self._on_progress(self.done)
        return Digest.of(view)

    def digest(self) -> Digest:
        return Digest(self._whole.digest(), self.done)
