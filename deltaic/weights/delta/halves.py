"""Half-precision numbers that were other half-precision numbers before: the scales and minimums of blocks.

An update moves a number by about as much whatever its size, so how many steps of its own precision that is depends on
its exponent: numbers are coded in classes of one exponent each. In a tall matrix (an embedding) it depends even more on
the column of the weight that defines the number: the update of an embedding has nearly one direction, in which every
column has its own sign and size. Columns are then sorted into groups, and steps count as positive in the direction of
the column.

    set         places where the sign changed
    number      classes, C; the class of a number is how far its old exponent is below the largest, C - 1 at most
    number      1 when columns are told apart, else 0; if 1,
    fixed       for each column four bits, two columns in a byte, the lower half first: group (three bits), direction
    for each class, for each group (one group without columns):
    numbers     new magnitude less old magnitude, as integers (the 15 bits below the sign), in the column's direction
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import Numbers, read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.sets import Places, read_set, set_bits, write_set
from deltaic.weights.errors import BadDelta

Halves = npt.NDArray[np.uint16]

GROUPS = 8
MAX_COLUMNS = 1 << 20
TALL = 100
"""Numbers for each column from which on it may pay to tell columns apart."""
_SIGN = np.uint16(0x8000)
_MAGNITUDE = np.uint16(0x7FFF)
_EXPONENT_SHIFT = np.uint16(10)
_MAX_CLASSES = 32
_CHOICES = (1, 3, 6)
_CLASSES_WITH_COLUMNS = 3
_FEW = 64
_MAGNITUDES = 16
"""Larger steps are estimated to be as rare as this one."""
_CLASS_BITS = 32.0
_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Origin:
    """The weight that defines each number: its column in the matrix, and 1 or -1 as the number grows with it or not."""

    column: npt.NDArray[np.int32]
    sign: npt.NDArray[np.int8]
    columns: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """For each column its group, and 1 or -1 as its direction."""

    group: npt.NDArray[np.uint8]
    direction: npt.NDArray[np.int8]


def write_halves(out: PayloadWriter, new: Halves, old: Halves, origin: Origin | None) -> None:
    """Write `new`, of whose length the reader has `old`; `origin` only where the matrix is tall."""
    steps = (new & _MAGNITUDE).astype(np.int32) - (old & _MAGNITUDE).astype(np.int32)
    write_set(out, np.flatnonzero((new ^ old) & _SIGN), len(old))
    written = [_without_columns(steps, old)]
    if origin is not None:
        written.append(_with_columns(steps, old, origin))
    out.fixed(min(written, key=len))


def read_halves(payload: PayloadReader, old: Halves, origin: "OriginOf") -> Halves:
    """The new numbers; `origin` is asked only when columns are told apart. Raises BadDelta."""
    flipped = read_set(payload, len(old))
    classes = payload.number(_MAX_CLASSES)
    if classes < 1:
        raise BadDelta("half-precision numbers in no class")
    cell, cells, sign = _classes(old, classes), classes, None
    if payload.number(1):
        known = origin()
        columns = _read_columns(payload, known.columns)
        cell, cells = cell * np.uint8(GROUPS) + columns.group[known.column], classes * GROUPS
        sign = columns.direction[known.column] * known.sign
    steps = np.zeros(len(old), np.int32)
    for members in _members(cell, cells):
        steps[members] = read_all(payload, len(members))
    if len(steps) and not -_LIMIT < steps.min() <= steps.max() < _LIMIT:
        raise BadDelta("a half-precision number that moves too far")
    magnitude = (old & _MAGNITUDE).astype(np.int32) + (steps if sign is None else steps * sign)
    if len(magnitude) and not 0 <= magnitude.min() <= magnitude.max() <= int(_MAGNITUDE):
        raise BadDelta("a half-precision number outside its range")
    new = magnitude.astype(np.uint16) | (old & _SIGN)
    new[flipped] ^= _SIGN
    return new


class OriginOf:
    """Finds the origin of numbers when somebody needs it: that takes a look at every level."""

    def __init__(self, find: Callable[[], Origin | None]) -> None:
        self._find = find

    def __call__(self) -> Origin:
        """Raises BadDelta where numbers have no columns."""
        if (origin := self._find()) is None:
            raise BadDelta("columns told apart where there are none")
        return origin


def _classes(old: Halves, classes: int) -> npt.NDArray[np.uint8]:
    exponents = ((old & _MAGNITUDE) >> _EXPONENT_SHIFT).astype(np.int16)
    below: npt.NDArray[np.int16] = np.minimum(exponents.max(initial=0) - exponents, classes - 1)
    return below.astype(np.uint8)


def _members(cell: npt.NDArray[np.uint8], cells: int) -> Iterator[Places]:
    """For each cell the places of its numbers."""
    if cells == 1:
        yield np.arange(len(cell))
        return
    order = np.argsort(cell, kind="stable")
    ends = np.cumsum(np.bincount(cell, minlength=cells))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield order[start:end]


def _without_columns(steps: Numbers, old: Halves) -> bytearray:
    classes = _best_classes(steps, old)
    out = PayloadWriter()
    out.number(classes)
    out.number(0)
    for members in _members(_classes(old, classes), classes):
        write_numbers(out, steps[members])
    return out.data


def _best_classes(steps: Numbers, old: Halves) -> int:
    """How many classes take fewest bytes, by an estimate."""
    if len(old) < _FEW:
        return _CHOICES[0]
    finest = _classes(old, _CHOICES[-1])
    size = np.bincount(finest, minlength=_CHOICES[-1])
    moved = np.flatnonzero(steps != 0)
    magnitude = np.minimum(np.abs(steps[moved]), _MAGNITUDES - 1)
    cells = finest[moved].astype(np.int64) * _MAGNITUDES + magnitude
    count = np.bincount(cells, minlength=len(size) * _MAGNITUDES).reshape(len(size), -1)

    def bits(classes: int) -> float:
        rows = np.arange(len(size)).clip(max=classes - 1)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        return sum(map(_class_bits, np.add.reduceat(count, starts), np.add.reduceat(size, starts).tolist()))

    return min(_CHOICES, key=bits)


def _class_bits(magnitudes: npt.NDArray[np.int64], size: int) -> float:
    """About how many bits the steps of a class take: where they are, their signs and their magnitudes."""
    moved = int(magnitudes.sum())
    if not moved:
        return _CLASS_BITS
    some = magnitudes[magnitudes > 0]
    return 2 * _CLASS_BITS + set_bits(moved, size) + moved - float((some * np.log2(some / moved)).sum())


def _with_columns(steps: Numbers, old: Halves, origin: Origin) -> bytearray:
    columns = _sort_columns((np.sign(steps) * origin.sign).astype(np.int32), origin)
    towards = steps * (columns.direction[origin.column] * origin.sign)
    out = PayloadWriter()
    out.number(_CLASSES_WITH_COLUMNS)
    out.number(1)
    _write_columns(out, columns)
    cell = _classes(old, _CLASSES_WITH_COLUMNS) * np.uint8(GROUPS) + columns.group[origin.column]
    for members in _members(cell, _CLASSES_WITH_COLUMNS * GROUPS):
        write_numbers(out, towards[members])
    return out.data


def _sort_columns(signs: Numbers, origin: Origin) -> _Columns:
    """Four groups by how often the numbers of a column change, each halved by how much they agree on a direction."""
    count = np.maximum(np.bincount(origin.column, minlength=origin.columns), 1)
    changed = np.bincount(origin.column, weights=signs != 0, minlength=origin.columns)
    tendency = np.bincount(origin.column, weights=signs, minlength=origin.columns)
    often = _rank(changed / count, 4)
    agree = _rank(np.abs(tendency) / np.maximum(changed, 1), 2)
    direction = np.where(tendency < 0, -1, 1).astype(np.int8)
    return _Columns((often * 2 + agree).astype(np.uint8), direction)


def _rank(values: npt.NDArray[np.float64], parts: int) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.quantile(values, [part / parts for part in range(1, parts)]), values)


def _write_columns(out: PayloadWriter, columns: _Columns) -> None:
    nibbles = np.zeros(len(columns.group) + len(columns.group) % 2, np.uint8)
    nibbles[: len(columns.group)] = columns.group | (columns.direction < 0).astype(np.uint8) << np.uint8(3)
    out.fixed((nibbles[::2] | nibbles[1::2] << np.uint8(4)).tobytes())


def _read_columns(payload: PayloadReader, count: int) -> _Columns:
    packed = np.frombuffer(payload.fixed(-(-count // 2)), np.uint8)
    nibbles = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], 1).reshape(-1)[:count]
    return _Columns(nibbles & np.uint8(7), np.where(nibbles & np.uint8(8), -1, 1).astype(np.int8))
