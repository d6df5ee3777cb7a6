"""One part of a delta: bytes of the source and a payload in, one chunk of the target out.

Nothing here is believed: what a part makes counts once it is hashed by whoever knows the digest of the chunk. What is
promised is that a hostile part costs bounded memory and ends in a chunk of the right length or in BadDelta.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from deltaic.weights.delta import frames
from deltaic.weights.delta.blocks import decode_blocks, place_in_matrix
from deltaic.weights.delta.float_types import FLOATS
from deltaic.weights.delta.floats import decode_floats
from deltaic.weights.delta.index import Codec, DeltaIndex, Part
from deltaic.weights.delta.lowrank import Matrix
from deltaic.weights.delta.quants import LAYOUTS
from deltaic.weights.delta.requantised import can_requantise, decode_requantised
from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta
from deltaic.weights.ggml_types import BY_NAME

ReadSource: TypeAlias = Callable[[int, int], bytes]
"""`read(offset, length)` gives bytes of the source file; fewer where the file is shorter than it should be."""


def make_chunk(index: DeltaIndex, part: Part, read: ReadSource, payload: Buffer) -> Buffer:
    """The chunk that a part makes, not yet verified. Raises BadDelta."""
    if len(payload) != part.payload_length:
        raise BadDelta(f"a payload of {len(payload):,} bytes where {part.payload_length:,} belong")
    chunk = _MAKERS[part.codec](index, part, _bounded(part, read), payload)
    if len(chunk) != part.target_length:
        raise BadDelta(f"a part made {len(chunk):,} bytes instead of {part.target_length:,}")
    return chunk


def _bounded(part: Part, read: ReadSource) -> ReadSource:
    """Reads of one part: offsets count from its own source bytes, and nothing else can be read."""

    def read_within(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > part.source_length:
            raise BadDelta("a part reads outside the bytes of the source that it names")
        data = read(part.source_offset + offset, length)
        if len(data) != length:
            raise BadDelta("the source is shorter than the delta says")
        return data

    return read_within


def _reuse(_index: DeltaIndex, part: Part, read: ReadSource, _payload: Buffer) -> Buffer:
    return read(0, part.source_length)


def _raw(_index: DeltaIndex, _part: Part, _read: ReadSource, payload: Buffer) -> Buffer:
    return payload


def _zstd(_index: DeltaIndex, part: Part, _read: ReadSource, payload: Buffer) -> Buffer:
    return frames.expand(payload, part.target_length)


def _prefix(_index: DeltaIndex, part: Part, read: ReadSource, payload: Buffer) -> Buffer:
    return frames.expand(payload, part.target_length, prefix=read(0, part.source_length))


def _blocks(index: DeltaIndex, part: Part, read: ReadSource, payload: Buffer, *, spans: bool) -> Buffer:
    ggml_type = index.segments[part.segment].ggml_type
    if ggml_type not in LAYOUTS or part.target_length % LAYOUTS[ggml_type].block_bytes:
        raise BadDelta(f"a part of {part.target_length:,} bytes that are no blocks of {ggml_type or 'any type'}")
    if part.source_length != part.target_length:
        raise BadDelta("a part that makes blocks of another number of blocks")
    return decode_blocks(ggml_type, payload, read(0, part.source_length), _matrix(index, part), spans=spans).data


def _float(index: DeltaIndex, part: Part, read: ReadSource, payload: Buffer) -> Buffer:
    ggml_type = index.segments[part.segment].ggml_type
    if ggml_type not in FLOATS or part.target_length % (FLOATS[ggml_type].bits // 8):
        raise BadDelta(f"a part of {part.target_length:,} bytes that are no numbers of {ggml_type or 'any type'}")
    if part.source_length != part.target_length:
        raise BadDelta("a part that makes numbers of another number of numbers")
    return decode_floats(ggml_type, payload, read(0, part.source_length), _matrix(index, part))


def _matrix(index: DeltaIndex, part: Part) -> Matrix:
    segment = index.segments[part.segment]
    return place_in_matrix(segment.ggml_type, segment.row_elements, part.target_offset - index.starts[part.segment])


def _requant(index: DeltaIndex, part: Part, read: ReadSource, payload: Buffer) -> Buffer:
    segment = index.segments[part.segment]
    if not can_requantise(segment.ggml_type, segment.source_type):
        raise BadDelta(f"a part that makes {segment.ggml_type or 'bytes'} of {segment.source_type or 'bytes'}")
    if part.target_length % BY_NAME[segment.ggml_type].block_bytes:
        raise BadDelta(f"a part of {part.target_length:,} bytes that are no blocks of {segment.ggml_type}")
    return decode_requantised(segment.ggml_type, payload, part.target_length, segment.source_type, read)


_MAKERS: dict[Codec, Callable[[DeltaIndex, Part, ReadSource, Buffer], Buffer]] = {
    Codec.REUSE: _reuse,
    Codec.RAW: _raw,
    Codec.ZSTD: _zstd,
    Codec.PREFIX: _prefix,
    Codec.FLOAT: _float,
    Codec.BLOCK: partial(_blocks, spans=False),
    Codec.REQUANT: _requant,
    Codec.SPANS: partial(_blocks, spans=True),
}
