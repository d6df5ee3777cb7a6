"""The codec BLOCK: quantisation blocks from blocks of the same type.

    number      0: only blocks that move are examined; every block, 1: as it is, 2: with a lattice found by bounds,
                3: with a lattice found by least squares
    halves      scales, then minimums where the type has them: `halves`
    numbers     integers of sub-blocks, field by field, each less what it was, modulo its range
    surprises   of the examined blocks: new levels against predicted ones, in strips: `surprises`
    numbers     of all elements in file order: level less old level, for blocks that are not examined

A block moves when its new scale or minimum would round one of its levels to another. Where few blocks do, all others
are copied, and what costs time is what changed.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.halves import MAX_COLUMNS, TALL, Origin, OriginOf, read_halves, write_halves
from deltaic.weights.delta.lattice import Lattice
from deltaic.weights.delta.lowrank import Matrix
from deltaic.weights.delta.numbers import Numbers, read_numbers, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.predict import Levels, Move, Prediction, Scales, predict_far, predict_near
from deltaic.weights.delta.quants import LAYOUTS, Bytes, Field, Layout
from deltaic.weights.delta.sets import Places
from deltaic.weights.delta.surprises import Small, SurpriseReader, SurpriseWriter
from deltaic.weights.digest import Buffer
from deltaic.weights.ggml_types import BY_NAME

_STRIP_ELEMENTS = 1 << 16
_WAYS: tuple[tuple[bool, Lattice], ...] = (
    (False, Lattice.NONE),
    (True, Lattice.NONE),
    (True, Lattice.BOUNDS),
    (True, Lattice.SQUARES),
)
"""(whether every block is examined, how values are placed in their levels); a payload begins with an index into it."""


def place_in_matrix(ggml_type: str, row_elements: int, offset: int) -> Matrix:
    """Where the block at byte `offset` of a tensor lies."""
    if not ggml_type or not row_elements:
        return Matrix(0, 0)
    known = BY_NAME[ggml_type]
    return Matrix(row_elements, offset // known.block_bytes * known.block_elements % row_elements)


def encode_blocks(ggml_type: str, new: Buffer, old: Buffer, matrix: Matrix) -> bytes:
    """The payload that makes `new` of `old`; both of whole blocks, of the same length."""
    layout = LAYOUTS[ggml_type]
    after, before = _blocks(layout, new), _blocks(layout, old)
    head = PayloadWriter()
    for at in layout.halves:
        write_halves(head, _half(after, at), _half(before, at), _tall_origin(layout, before, at, matrix))
    for field in layout.small_fields:
        write_numbers(head, _difference(field.bits, _entries(field, after), _entries(field, before)).reshape(-1))
    scaled = before.copy()
    _copy_scales(layout, after, scaled)
    way = _best_way(layout, after, before, scaled)
    out = PayloadWriter()
    out.number(way)
    out.fixed(head.data)
    _write_levels(out, layout, way, after, before, scaled)
    return bytes(out.data)


def _best_way(layout: Layout, after: Bytes, before: Bytes, scaled: Bytes) -> int:
    """The way that takes fewest bytes for some strips of the blocks, where it gains what it costs in time."""
    step = _STRIP_ELEMENTS // layout.elements
    starts = range(0, len(before), step)[:: max(1, len(before) // (_SAMPLED_STRIPS * step))]
    sample = np.concatenate([np.arange(start, min(start + step, len(before))) for start in starts])
    costs = {}
    for way in _ways(layout):
        out = PayloadWriter()
        _write_levels(out, layout, way, after[sample], before[sample], scaled[sample])
        costs[way] = len(out.data) * _WAY_WEIGHTS[way]
    return min(costs, key=costs.__getitem__)


def decode_blocks(ggml_type: str, payload: Buffer, old: Buffer, matrix: Matrix) -> Bytes:
    """The new blocks, flat. Raises BadDelta."""
    layout = LAYOUTS[ggml_type]
    before = _blocks(layout, old)
    reader = PayloadReader(payload)
    way = reader.number(len(_WAYS) - 1)
    blocks = before.copy()
    for at in layout.halves:
        origin = OriginOf(partial(find_origin, layout, before, at, matrix))
        new = read_halves(reader, _half(before, at), origin)
        blocks[:, at : at + 2] = new.view(np.uint8).reshape(-1, 2)
    for field in layout.small_fields:
        _read_small(reader, field, blocks)
    _read_levels(reader, layout, way, blocks, before)
    reader.finish()
    return blocks.reshape(-1)


def find_origin(layout: Layout, blocks: Bytes, at: int, matrix: Matrix) -> Origin | None:
    """The weight of each block that defines its number at byte `at`; None for types and rows where there is none.

    The scale comes from the outermost weight, the minimum from the lowest.
    """
    row = matrix.row_elements
    if layout.small_fields or not 0 < row <= MAX_COLUMNS or row % layout.elements:
        return None
    entry, sign = np.empty((2, len(blocks)), np.int32)
    for strip in _strips(layout, np.arange(len(blocks))):
        levels = _levels(layout, blocks[strip])
        levels -= np.int16(layout.zero)
        outermost = levels.argmin(0) if at == layout.minimum else np.abs(levels).argmax(0)
        entry[strip] = outermost
        sign[strip] = np.where(levels[outermost, np.arange(len(strip))] < 0, -1, 1)
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


_WAY_WEIGHTS = (1.0, 1.03, 1.05, 1.05)
_SAMPLED_STRIPS = 3


def _ways(layout: Layout) -> tuple[int, ...]:
    if not layout.linear:
        return (0,)
    return (0, 1, 2, 3) if layout.sub_elements == 32 else (0, 1)


def _write_levels(out: PayloadWriter, layout: Layout, way: int, after: Bytes, before: Bytes, scaled: Bytes) -> None:
    near, far = _examined(layout, way, before, scaled)
    surprises = SurpriseWriter(lattice=bool(_WAYS[way][1]))
    for strip, predict in _walk(layout, near, far):
        guess = _predict(layout, way, before[strip], scaled[strip], predict)
        true = _levels(layout, after[strip])
        surprises.add((true - guess.levels).reshape(-1), guess.fraction.reshape(-1), _flat(guess.spread))
    if len(near) or len(far):
        surprises.write(out)
    if len(near) + len(far) < len(before):
        rest = np.zeros((len(before), layout.elements), np.int32)
        others = np.setdiff1d(np.arange(len(before)), far, assume_unique=True)
        for strip in _strips(layout, others):
            rest[strip] = _difference(
                layout.levels.bits, _entries(layout.levels, after[strip]), _entries(layout.levels, before[strip])
            ).T
        write_numbers(out, rest.reshape(-1))


def _read_levels(reader: PayloadReader, layout: Layout, way: int, blocks: Bytes, before: Bytes) -> None:
    near, far = _examined(layout, way, before, blocks)
    examined = len(near) + len(far)
    lattice = bool(_WAYS[way][1])
    surprises = SurpriseReader(reader, examined * layout.elements, lattice=lattice) if examined else None
    if examined < len(before):
        for places, values in _in_strips(*read_numbers(reader, len(before) * layout.elements)):
            block, entry = np.divmod(places, layout.elements)
            _add(layout.levels, blocks, block, entry, values)
    for strip, predict in _walk(layout, near, far):
        assert surprises is not None
        old = _levels(layout, before[strip])
        guess = predict(layout, old, _move(layout, before[strip], blocks[strip]), _WAYS[way][1])
        places, differences = surprises.strip(guess.fraction.reshape(-1), _flat(guess.spread))
        guess.levels.reshape(-1)[places] += differences.astype(np.int16)
        _store(layout, blocks, strip, guess.levels, old)


def _examined(
    layout: Layout, way: int, before: Bytes, scaled: Bytes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(near, far): which blocks are predicted element by element, those that move little apart from the others."""
    nowhere = np.empty(0, np.int64)
    if not layout.linear:
        return nowhere, nowhere
    moves = np.zeros(len(before), np.bool_)
    for at in _scale_places(layout):
        moves |= before[:, at] != scaled[:, at]
    changed = np.flatnonzero(moves)
    near = [_move(layout, before[strip], scaled[strip]).is_near(layout) for strip in _strips(layout, changed)]
    far = changed[~np.concatenate(near)] if near else nowhere
    if not _WAYS[way][0]:
        return nowhere, far
    moves[:] = True
    moves[far] = False
    return np.flatnonzero(moves), far


def _walk(
    layout: Layout, near: npt.NDArray[np.int64], far: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], "_Predict"]]:
    """Strips in the order of the format: first the blocks that move little, then the others."""
    yield from ((strip, predict_near) for strip in _strips(layout, near))
    yield from ((strip, predict_far) for strip in _strips(layout, far))


_Predict = Callable[[Layout, Levels, Move, Lattice], Prediction]


def _predict(layout: Layout, way: int, before: Bytes, scaled: Bytes, predict: _Predict) -> Prediction:
    return predict(layout, _levels(layout, before), _move(layout, before, scaled), _WAYS[way][1])


def _flat(spread: Small | None) -> Small | None:
    return None if spread is None else spread.reshape(-1)


def _move(layout: Layout, before: Bytes, scaled: Bytes) -> Move:
    return Move.between(Scales.of(layout, before), Scales.of(layout, scaled))


def _strips(layout: Layout, blocks: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The blocks, so many at a time that what is computed from them stays in the cache of a core."""
    step = _STRIP_ELEMENTS // layout.elements
    for start in range(0, len(blocks), step):
        yield blocks[start : start + step]


def _store(layout: Layout, blocks: Bytes, strip: npt.NDArray[np.int64], levels: Levels, old: Levels) -> None:
    """Put levels, (elements, blocks of the strip), where they are not what they were."""
    places = np.flatnonzero(levels != old)
    entry, block = np.divmod(places, len(strip))
    bits = (levels.reshape(-1)[places] ^ old.reshape(-1)[places]) & ((1 << layout.levels.bits) - 1)
    layout.levels.flip(blocks, strip[block], entry, bits.astype(np.int32))


def _levels(layout: Layout, blocks: Bytes) -> Levels:
    levels = layout.levels.unpack(np.ascontiguousarray(blocks.T))
    return (levels.view(np.int8) if layout.signed else levels).astype(np.int16)


def _read_small(reader: PayloadReader, field: Field, blocks: Bytes) -> None:
    for places, values in _in_strips(*read_numbers(reader, len(blocks) * field.entries)):
        entry, block = np.divmod(places, len(blocks))
        _add(field, blocks, block, entry, values)


def _in_strips(places: Places | None, values: Numbers) -> Iterator[tuple[Places, Numbers]]:
    """Numbers and where they are, a bounded number at a time."""
    for start in range(0, len(values), _STRIP_ELEMENTS):
        strip = values[start : start + _STRIP_ELEMENTS]
        if places is None:
            found = np.flatnonzero(strip)
            yield found + start, strip[found]
        else:
            yield places[start : start + _STRIP_ELEMENTS], strip


def _add(
    field: Field, blocks: Bytes, block: npt.NDArray[np.int64], entry: npt.NDArray[np.int64], values: Numbers
) -> None:
    """Add to some entries, modulo their range, in place."""
    old = field.gather(blocks, block, entry)
    field.flip(blocks, block, entry, (old ^ (old + values.astype(np.int32))) & ((1 << field.bits) - 1))


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


def _copy_scales(layout: Layout, source: Bytes, target: Bytes) -> None:
    at = _scale_places(layout)
    target[:, at] = source[:, at]


def _scale_places(layout: Layout) -> list[int]:
    """The bytes of a block that hold no level."""
    halves = {at + byte for at in layout.halves for byte in (0, 1)}
    small = {at for field in layout.small_fields for piece in field.pieces for at in piece.at}
    return sorted(halves | small)
