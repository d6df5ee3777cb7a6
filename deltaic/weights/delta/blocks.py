"""The codecs BLOCK and SPANS: quantisation blocks from blocks of the same type.

    number      0: only blocks that move are examined; every block, 1: as it is, 2: with a lattice found by bounds,
                3: with a lattice found by least squares
    halves      scales, then minimums where the type has them: `halves`; of SPANS minimums, then scales: `spans`
    numbers     integers of sub-blocks, field by field, each less what it was, modulo its range
    surprises   of the examined blocks: new levels against predicted ones, in strips: `surprises`
    numbers     of all elements in file order: level less old level, for blocks that are not examined

A block moves when its new scale or minimum would round one of its levels to another. Where few blocks do, all others
are copied, and what costs time is what changed.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.halves import MAX_COLUMNS, TALL, Origin, OriginOf, read_halves, write_halves
from deltaic.weights.delta.levels import (
    STRIP_ELEMENTS,
    WAYS,
    LevelCoder,
    Moves,
    add_entries,
    best_way,
    in_strips,
    unpack_levels,
)
from deltaic.weights.delta.lowrank import Matrix
from deltaic.weights.delta.numbers import read_numbers, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.quants import LAYOUTS, Bytes, Field, Layout
from deltaic.weights.delta.spans import Spans, read_spans, write_spans
from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta
from deltaic.weights.ggml_types import BY_NAME


def place_in_matrix(ggml_type: str, row_elements: int, offset: int) -> Matrix:
    """Where the block at byte `offset` of a tensor lies."""
    if not ggml_type or not row_elements:
        return Matrix(0, 0)
    known = BY_NAME[ggml_type]
    return Matrix(row_elements, offset // known.block_bytes * known.block_elements % row_elements)


def encode_blocks(ggml_type: str, new: Buffer, old: Buffer, matrix: Matrix) -> tuple[bytes, bool]:
    """(payload, spans): what makes `new` of `old`, and whether it is one of SPANS. Both whole blocks, of one length."""
    layout = LAYOUTS[ggml_type]
    after, before = _blocks(layout, new), _blocks(layout, old)
    halves, spans = _write_halves(layout, after, before, matrix)
    scaled = before.copy()
    _copy_scales(layout, after, scaled)
    way = best_way(layout, after, before, scaled)
    out = PayloadWriter()
    out.number(way)
    out.fixed(halves)
    for field in layout.small_fields:
        write_numbers(out, _difference(field.bits, _entries(field, after), _entries(field, before)).reshape(-1))
    LevelCoder(layout, WAYS[way], before, Moves.between(layout, before, scaled)).write(out, after)
    return bytes(out.data), spans


def decode_blocks(ggml_type: str, payload: Buffer, old: Buffer, matrix: Matrix, *, spans: bool = False) -> Bytes:
    """The new blocks, flat. Raises BadDelta."""
    layout = LAYOUTS[ggml_type]
    before = _blocks(layout, old)
    reader = PayloadReader(payload)
    way = reader.number(len(WAYS) - 1)
    blocks = before.copy()
    _read_halves(reader, layout, blocks, before, matrix, spans=spans)
    for field in layout.small_fields:
        _read_small(reader, field, blocks)
    LevelCoder(layout, WAYS[way], before, Moves.between(layout, before, blocks)).read(reader, blocks)
    reader.finish()
    return blocks.reshape(-1)


def _write_halves(layout: Layout, after: Bytes, before: Bytes, matrix: Matrix) -> tuple[bytes, bool]:
    """Scales and minimums, the shorter way; whether that is by spans."""

    def written(at: int) -> bytearray:
        out = PayloadWriter()
        write_halves(out, _half(after, at), _half(before, at), _tall_origin(layout, before, at, matrix))
        return out.data

    scales, *minimums = map(written, layout.halves)
    if not layout.has_spans:
        return b"".join([scales, *minimums]), False
    out = PayloadWriter()
    write_spans(out, _spans(layout, after), _spans(layout, before))
    spans = len(out.data) < len(scales)
    return b"".join([*minimums, out.data] if spans else [scales, *minimums]), spans


def _read_halves(
    reader: PayloadReader, layout: Layout, blocks: Bytes, before: Bytes, matrix: Matrix, *, spans: bool
) -> None:
    """Put new scales and minimums into `blocks`, which hold the old ones. Raises BadDelta."""
    if spans and not layout.has_spans:
        raise BadDelta(f"scales by spans of {layout.name}, which has none")
    for at in layout.halves[spans:]:
        origin = OriginOf(partial(find_origin, layout, before, at, matrix))
        _put_half(blocks, at, read_halves(reader, _half(before, at), origin))
    if spans:
        _put_half(blocks, layout.scale, read_spans(reader, _spans(layout, blocks).minimum, _spans(layout, before)))


def _spans(layout: Layout, blocks: Bytes) -> Spans:
    scale, minimum = (_half(blocks, at) for at in layout.halves)
    return Spans(scale, minimum, layout.range[1])


def find_origin(layout: Layout, blocks: Bytes, at: int, matrix: Matrix) -> Origin | None:
    """The weight of each block that defines its number at byte `at`; None for types and rows where there is none.

    The scale comes from the outermost weight, the minimum from the lowest.
    """
    row = matrix.row_elements
    if layout.small_fields or not 0 < row <= MAX_COLUMNS or row % layout.elements:
        return None
    entry, sign = np.empty((2, len(blocks)), np.int16)
    step = STRIP_ELEMENTS // layout.elements
    for first in range(0, len(blocks), step):
        strip = slice(first, first + step)
        levels = unpack_levels(layout, blocks[strip])
        levels -= np.int16(layout.zero)
        outermost = _first_largest(-levels if at == layout.minimum else np.abs(levels))
        entry[strip] = outermost
        sign[strip] = np.where(levels[outermost, np.arange(levels.shape[1])] < 0, -1, 1)
    if layout.minimum is not None:
        sign[:] = 1
    if layout.minimum is None or at == layout.minimum:
        sign[_half(blocks, at) >= 0x8000] *= -1
    start = matrix.first_column + np.arange(len(blocks)) * layout.elements
    return Origin((start % row + entry).astype(np.int32), sign.astype(np.int8), row)


def _tall_origin(layout: Layout, blocks: Bytes, at: int, matrix: Matrix) -> Origin | None:
    if not matrix.row_elements or len(blocks) < TALL * matrix.row_elements:
        return None
    return find_origin(layout, blocks, at, matrix)


def _first_largest(levels: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """In which of at most 32 rows each column has its largest number, of at most 10 bits; the first of equal ones."""
    last = np.int16(31)
    places = last - np.arange(len(levels), dtype=np.int16)[:, None]
    largest = ((levels << np.int16(5)) + places).max(0)
    row: npt.NDArray[np.int16] = last - (largest & last)
    return row


def _read_small(reader: PayloadReader, field: Field, blocks: Bytes) -> None:
    for places, values in in_strips(*read_numbers(reader, len(blocks) * field.entries)):
        entry, block = np.divmod(places, len(blocks))
        add_entries(field, blocks, block, entry, values)


def _entries(field: Field, blocks: Bytes) -> npt.NDArray[np.int32]:
    """(entries, blocks)."""
    return field.unpack(np.ascontiguousarray(blocks.T)).astype(np.int32)


def _difference(bits: int, new: npt.NDArray[np.int32], old: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The shortest way from old to new, modulo 2^bits: from -2^(bits-1) up."""
    half = 1 << (bits - 1)
    return ((new - old + half) & ((1 << bits) - 1)) - half


def _blocks(layout: Layout, data: Buffer) -> Bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, layout.block_bytes)


def _half(blocks: Bytes, at: int) -> npt.NDArray[np.uint16]:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")[:, 0]


def _put_half(blocks: Bytes, at: int, halves: npt.NDArray[np.uint16]) -> None:
    blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)


def _copy_scales(layout: Layout, source: Bytes, target: Bytes) -> None:
    at = list(layout.scale_bytes)
    target[:, at] = source[:, at]
