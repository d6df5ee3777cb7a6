"""Which bytes of the source a chunk of the target is made from.

A chunk that stands in the source too is reused from there, wherever it is. A tensor is made from the tensor of the same
name: from the same elements where the shape is the same, also in another type; from the same rows where only the number
of rows differs. A header segment is made from the segment of the same name, or from the header as a whole.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaic.weights.chunks import Extent, split
from deltaic.weights.delta.blocks import place_in_matrix
from deltaic.weights.delta.tasks import Task
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadLayout
from deltaic.weights.ggml_types import BY_NAME
from deltaic.weights.layout import Layout, LayoutSegment, SegmentKind

_NOTHING = Extent(0, 0)
_MAX_HEADER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file's digest and the digests of its chunks, with one offset at which each lies."""

    whole: Digest
    chunks: tuple[tuple[Extent, bytes], ...]


def hash_chunks(path: Path, layout: Layout) -> Hashed:
    """Hash a file and its chunks in one pass, one chunk in memory. Raises BadLayout when the file is cut meanwhile."""
    whole = hashlib.sha256()
    chunks: list[tuple[Extent, bytes]] = []
    with path.open("rb", buffering=0) as file:
        for segment in layout.segments:
            for extent in split(segment):
                data = file.read(extent.length)
                if len(data) != extent.length:
                    raise BadLayout(f"{path.name} became shorter while it was read", hint="nobody may write to it")
                whole.update(data)
                chunks.append((extent, hashlib.sha256(data).digest()))
    return Hashed(Digest(whole.digest(), layout.size), tuple(chunks))


def match(before: Layout, old: Hashed, after: Layout, new: Hashed) -> Iterator[Task]:
    """One task for each chunk of the target, in file order."""
    known = {sum_: extent for extent, sum_ in reversed(old.chunks)}
    counterparts = _Counterparts(before)
    position = iter(new.chunks)
    for number, segment in enumerate(after.segments):
        counterpart = counterparts.of(segment)
        row = segment.shape[0] if segment.shape else 0
        for extent in split(segment):
            _, sum_ = next(position)
            same = known.get(sum_)
            material = _material(segment, extent, counterpart)
            source_type = counterpart.ggml_type if counterpart and material.length else ""
            matrix = place_in_matrix(segment.ggml_type, row, extent.offset - segment.offset)
            found = same or material
            yield Task(number, extent, found, segment.ggml_type, source_type, matrix, reuse=same is not None)


class _Counterparts:
    """Finds in the source what a segment of the target was made from."""

    def __init__(self, before: Layout) -> None:
        self._named = {(each.kind, each.name): each for each in before.segments if each.name}
        headers = [each for each in before.segments if each.kind is SegmentKind.HEADER]
        end = headers[-1].end if headers else 0
        self._header = LayoutSegment(SegmentKind.HEADER, "", "", (), 0, min(end, _MAX_HEADER_BYTES))

    def of(self, segment: LayoutSegment) -> LayoutSegment | None:
        if segment.kind is SegmentKind.PADDING:
            return None
        found = self._named.get((segment.kind, segment.name))
        if segment.kind is SegmentKind.HEADER:
            return found or self._header
        if found is None or found.shape[0] != segment.shape[0] or len(found.shape) != len(segment.shape):
            return None
        same_rows = found.shape[1:-1] == segment.shape[1:-1] if len(segment.shape) > 1 else True
        return found if same_rows else None


def _material(segment: LayoutSegment, extent: Extent, counterpart: LayoutSegment | None) -> Extent:
    """The bytes of the counterpart that a chunk is made from; empty where there are none."""
    if counterpart is None:
        return _NOTHING
    if segment.kind is SegmentKind.HEADER:
        within = min(extent.offset - segment.offset, counterpart.length)
        start = max(0, min(within, counterpart.length - _MAX_HEADER_BYTES))
        return Extent(counterpart.offset + start, min(_MAX_HEADER_BYTES, counterpart.length - start))
    return _same_elements(segment, extent, counterpart)


def _same_elements(segment: LayoutSegment, extent: Extent, counterpart: LayoutSegment) -> Extent:
    ours, theirs = BY_NAME[segment.ggml_type], BY_NAME[counterpart.ggml_type]
    first = (extent.offset - segment.offset) // ours.block_bytes * ours.block_elements
    count = extent.length // ours.block_bytes * ours.block_elements
    if first % theirs.block_elements:
        return _NOTHING
    start = first // theirs.block_elements * theirs.block_bytes
    length = -(-count // theirs.block_elements) * theirs.block_bytes
    if start + length > counterpart.length:
        return _NOTHING
    return Extent(counterpart.offset + start, length)
