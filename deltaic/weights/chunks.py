"""Cuts a segment into chunks: the unit that is named, stored, sent and reused.

A chunk is at most 4 MiB, and inside a tensor it ends at the end of a quantisation block, so that a codec which knows
blocks (scales, minimums, nibbles) can work on a chunk alone. A segment never shares a chunk with its neighbour: a
change in one leaves the chunks of all others as they were.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deltaic.weights.ggml_types import BY_NAME
from deltaic.weights.layout import LayoutSegment

MAX_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file, in bytes."""

    offset: int
    length: int


def split(segment: LayoutSegment) -> Iterator[Extent]:
    """The chunks of a segment, in order; together exactly the segment."""
    step = chunk_bytes(segment.ggml_type)
    for offset in range(segment.offset, segment.end, step):
        yield Extent(offset, min(step, segment.end - offset))


def chunk_bytes(ggml_type: str) -> int:
    """Bytes of every chunk but the last: the most whole blocks of `ggml_type` ("" for plain bytes) that fit."""
    block = BY_NAME[ggml_type].block_bytes if ggml_type else 1
    return MAX_CHUNK_BYTES // block * block
