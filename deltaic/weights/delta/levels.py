"""The levels of blocks whose scales are known, old and new: predicted, and coded where the prediction is wrong.

Blocks whose levels hardly move under their new scales are predicted with 16-bit numbers, the few others with 32 bits;
both give the same for blocks that either could take. Blocks that are not examined keep their levels but for what is
coded outright.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.lattice import Lattice
from deltaic.weights.delta.numbers import Numbers, read_numbers, write_sparse_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.predict import Levels, Move, Prediction, Scales, predict_far, predict_near
from deltaic.weights.delta.quants import Bytes, Field, Layout
from deltaic.weights.delta.sets import Places, set_bits
from deltaic.weights.delta.surprises import Small, SurpriseReader, SurpriseWriter

STRIP_ELEMENTS = 1 << 16
_SAMPLE_ELEMENTS = 1 << 15
_SCALE_STRIPS = 2
"""Strips of which scales are looked at together: they have one for 16 elements or more."""

Strip: TypeAlias = slice | npt.NDArray[np.int64]
"""Blocks, so few at a time that what is computed from them stays in the cache of a core."""


@dataclass(frozen=True, slots=True)
class Way:
    """How levels are predicted: whether in every block or only in those that move, and where values lie in levels.

    `weight` is what a byte of this way counts when ways are compared: it must gain what it costs in time.
    """

    examine_all: bool
    lattice: Lattice
    weight: float


WAYS = (
    Way(examine_all=False, lattice=Lattice.NONE, weight=1.0),
    Way(examine_all=True, lattice=Lattice.NONE, weight=1.05),
    Way(examine_all=True, lattice=Lattice.BOUNDS, weight=1.08),
    Way(examine_all=True, lattice=Lattice.SQUARES, weight=1.08),
)
"""A payload names its way by an index into this."""


@dataclass(frozen=True, slots=True)
class Moves:
    """How each block moves, and whether by little. Most blocks keep their scales, and so do not move at all."""

    move: Move
    near: npt.NDArray[np.bool_]

    @classmethod
    def between(cls, layout: Layout, before: Bytes, scaled: Bytes) -> "Moves":
        """Of old blocks under their new scales, which `scaled` have."""
        shape = (layout.elements // layout.sub_elements, len(before))
        move, near = Move.none(shape), np.ones(len(before), np.bool_)
        if not layout.linear:
            return cls(move, near)
        differs = np.zeros(len(before), np.bool_)
        for at in layout.scale_bytes:
            differs |= before[:, at] != scaled[:, at]
        for strip in _cut(layout, np.flatnonzero(differs), _SCALE_STRIPS * STRIP_ELEMENTS):
            found = Move.between(Scales.of(layout, before[strip]), Scales.of(layout, scaled[strip]))
            move.ratio[:, strip], move.shift[:, strip] = found.ratio, found.shift
            near[strip] = found.is_near(layout)
        return cls(move, near)


class LevelCoder:
    """Levels of one part, in one way, of blocks that were `before` and have moved."""

    def __init__(self, layout: Layout, way: Way, before: Bytes, moves: Moves) -> None:
        self._layout = layout
        self._way = way
        self._before = before
        self._move, self._near = moves.move, moves.near

    @property
    def _examined(self) -> int:
        if not self._layout.linear:
            return 0
        return len(self._before) if self._way.examine_all else int(np.count_nonzero(~self._near))

    def write(self, out: PayloadWriter, after: Bytes) -> None:
        """Write the levels of `after`."""
        if self._examined:
            self._surprises(after).write(out)
        if self._examined < len(self._before):
            write_sparse_numbers(out, *self._rest(after), len(after) * self._layout.elements)

    def bits(self, after: Bytes, times: float) -> float:
        """About how many bits `write` takes for so many times as many blocks that are like these."""
        bits = self._surprises(after).bits(times) if self._examined else 0.0
        if self._examined < len(self._before):
            bits += set_bits(int(times * len(self._rest(after)[0])), int(times * len(after) * self._layout.elements))
        return bits

    def read(self, reader: PayloadReader, blocks: Bytes) -> None:
        """Put the new levels into `blocks`, which hold the old ones. Raises BadDelta."""
        layout, lattice = self._layout, bool(self._way.lattice)
        elements = self._examined * layout.elements
        surprises = SurpriseReader(reader, elements, lattice=lattice) if elements else None
        if self._examined < len(blocks):
            for places, values in in_strips(*read_numbers(reader, len(blocks) * layout.elements)):
                block, entry = np.divmod(places, layout.elements)
                add_entries(layout.levels, blocks, block, entry, values)
        if surprises is None:
            return
        for strip in self._strips():
            old = unpack_levels(layout, self._before[strip])
            guess = self._predict(strip, old)
            places, differences = surprises.strip(guess.fraction.reshape(-1), _flat(guess.spread))
            guess.levels.reshape(-1)[places] += differences.astype(np.int16)
            _store(layout, blocks, strip, guess.levels, old)

    def _surprises(self, after: Bytes) -> SurpriseWriter:
        surprises = SurpriseWriter(lattice=bool(self._way.lattice))
        for strip in self._strips():
            guess = self._predict(strip, unpack_levels(self._layout, self._before[strip]))
            wrong = unpack_levels(self._layout, after[strip]) - guess.levels
            surprises.add(wrong.reshape(-1), guess.fraction.reshape(-1), _flat(guess.spread))
        return surprises

    def _rest(self, after: Bytes) -> tuple[Places, Numbers]:
        """(places, values): level less old level in file order, where it differs in a block that is not examined."""
        layout = self._layout
        half, whole = np.int16(1 << (layout.levels.bits - 1)), 1 << layout.levels.bits
        differs = self._near.copy() if layout.linear else np.ones(len(after), np.bool_)
        differs &= _differ(layout.levels, after, self._before)
        places, values = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for strip in _cut(layout, np.flatnonzero(differs)):
            apart = unpack_levels(layout, after[strip]) - unpack_levels(layout, self._before[strip])
            block, entry = np.nonzero(apart.T)
            number = np.arange(strip.start, strip.stop) if isinstance(strip, slice) else strip
            places.append(number[block] * layout.elements + entry)
            values.append((((apart[entry, block] + half) & np.int16(whole - 1)) - half).astype(np.int32))
        return np.concatenate(places), np.concatenate(values)

    def _predict(self, strip: Strip, old: Levels) -> Prediction:
        move = Move(self._move.ratio[:, strip], self._move.shift[:, strip])
        predict = predict_near if self._near[strip].all() else predict_far
        return predict(self._layout, old, move, self._way.lattice)

    def _strips(self) -> Iterator[Strip]:
        """In the order of the format: first the blocks that move little, then the others."""
        if self._way.examine_all:
            yield from _cut(self._layout, np.flatnonzero(self._near))
        yield from _cut(self._layout, np.flatnonzero(~self._near))


def best_way(layout: Layout, after: Bytes, before: Bytes, scaled: Bytes) -> int:
    """The index of the way that takes fewest bytes, to judge by the first of the blocks."""
    if not layout.linear:
        return 0
    sample = slice(_SAMPLE_ELEMENTS // layout.elements)
    times = max(1.0, len(before) * layout.elements / _SAMPLE_ELEMENTS)
    lattices = layout.sub_elements == 32 and layout.levels.bits > 4
    after, before = after[sample], before[sample]
    moves = Moves.between(layout, before, scaled[sample])
    costs = {
        index: LevelCoder(layout, way, before, moves).bits(after, times) * way.weight
        for index, way in enumerate(WAYS)
        if lattices or not way.lattice
    }
    return min(costs, key=costs.__getitem__)


def unpack_levels(layout: Layout, blocks: Bytes) -> Levels:
    """(elements, blocks)."""
    levels = layout.levels.unpack(np.ascontiguousarray(blocks.T))
    return (levels.view(np.int8) if layout.signed else levels).astype(np.int16)


def in_strips(places: Places | None, values: Numbers) -> Iterator[tuple[Places, Numbers]]:
    """Numbers and where they are, a bounded number at a time."""
    for start in range(0, len(values), STRIP_ELEMENTS):
        strip = values[start : start + STRIP_ELEMENTS]
        if places is None:
            found = np.flatnonzero(strip)
            yield found + start, strip[found]
        else:
            yield places[start : start + STRIP_ELEMENTS], strip


def add_entries(field: Field, blocks: Bytes, block: Places, entry: Places, values: Numbers) -> None:
    """Add to some entries, modulo their range, in place."""
    old = field.gather(blocks, block, entry)
    field.flip(blocks, block, entry, (old ^ (old + values.astype(np.int32))) & ((1 << field.bits) - 1))


def _differ(field: Field, one: Bytes, other: Bytes) -> npt.NDArray[np.bool_]:
    """In which blocks the field may not be the same: some byte that holds a bit of it is not."""
    differs = np.zeros(len(one), np.bool_)
    for at in sorted({at for piece in field.pieces for at in piece.at}):
        differs |= one[:, at] != other[:, at]
    return differs


def _cut(layout: Layout, blocks: Places, elements: int = STRIP_ELEMENTS) -> Iterator[Strip]:
    step = elements // layout.elements
    for start in range(0, len(blocks), step):
        strip = blocks[start : start + step]
        first, last = int(strip[0]), int(strip[-1])
        yield slice(first, last + 1) if last - first == len(strip) - 1 else strip


def _store(layout: Layout, blocks: Bytes, strip: Strip, levels: Levels, old: Levels) -> None:
    """Put levels, (elements, blocks of the strip), where they are not what they were."""
    places = np.flatnonzero(levels != old)
    entry, within = np.divmod(places, levels.shape[1])
    bits = (levels.reshape(-1)[places] ^ old.reshape(-1)[places]) & ((1 << layout.levels.bits) - 1)
    block = within + strip.start if isinstance(strip, slice) else strip[within]
    layout.levels.flip(blocks, block, entry, bits.astype(np.int32))


def _flat(spread: Small | None) -> Small | None:
    return None if spread is None else spread.reshape(-1)
