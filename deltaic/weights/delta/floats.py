"""The codec FLOAT: numbers of one floating-point type from the same numbers before.

An update moves numbers by about as much whatever their size: in steps of their own precision that is twice as much for
each exponent less. So numbers are coded in classes of one exponent each.

    factors     of the update, where it is a product of two thin matrices: `lowrank`; numbers are then counted from
                where it takes them, rounded to the type
    number      classes, C; the class of a number is how far its old exponent is below the largest, C - 1 at most
    for each class:
    number      its numbers
    numbers     for them, in order: steps away from zero (positive) or towards and past it (negative)
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.float_types import (
    FLOATS,
    FloatType,
    Ordered,
    exponents,
    ordered,
    read_floats,
    round_floats,
    unordered,
)
from deltaic.weights.delta.lowrank import Factors, Matrix, find_factors, read_factors, write_factors
from deltaic.weights.delta.numbers import Numbers, read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta

_MAX_CLASSES = 255
_CLASSES = 14
_FEW = 4096
_TYPICAL = 1 << 16
_STRIP_ELEMENTS = 1 << 16


def encode_floats(ggml_type: str, new: Buffer, old: Buffer, matrix: Matrix) -> bytes | None:
    """The payload that makes `new` of `old`, of the same length; None when a number moves too far to be coded so."""
    kind = FLOATS[ggml_type]
    plain = _encoded(kind, new, old, None, matrix)
    factors = _factors(ggml_type, new, old, matrix) if plain and ggml_type != "F32" else None
    thin = _encoded(kind, new, old, factors, matrix) if factors else None
    return min((each for each in (plain, thin) if each is not None), key=len, default=None)


def decode_floats(ggml_type: str, payload: Buffer, old: Buffer, matrix: Matrix) -> bytearray:
    """The new numbers. Raises BadDelta."""
    kind = FLOATS[ggml_type]
    reader = PayloadReader(payload)
    elements = len(old) * 8 // kind.bits
    factors = read_factors(reader, matrix, elements)
    new = _moved(kind, old, factors, matrix) if factors else bytearray(old)
    classes = reader.number(_MAX_CLASSES)
    if classes < 1:
        raise BadDelta("numbers in no class")
    runs = [_Run(reader, elements) for _ in range(classes)]
    reader.finish()
    step = _STRIP_ELEMENTS * kind.bits // 8
    strips = [slice(start, start + step) for start in range(0, len(old), step)]
    view = memoryview(old)
    largest = np.uint8(max((exponents(kind, ordered(kind, view[strip])).max() for strip in strips), default=0))
    for strip in strips:
        before = ordered(kind, view[strip])
        steps = _strip_steps(runs, _class_of(kind, before, largest, classes))
        new[strip] = unordered(kind, _stepped(kind, before, ordered(kind, new[strip]), steps))
    return new


class _Run:
    """The numbers of one class, given out from the front."""

    def __init__(self, payload: PayloadReader, limit: int) -> None:
        self._values = read_all(payload, payload.number(limit))
        self._passed = 0

    def next(self, count: int) -> Numbers:
        """Raises BadDelta."""
        start, self._passed = self._passed, self._passed + count
        if self._passed > len(self._values):
            raise BadDelta("a class with fewer numbers than members")
        return self._values[start : self._passed]


def _strip_steps(runs: list[_Run], members: npt.NDArray[np.uint8]) -> Numbers:
    if len(runs) == 1:
        return runs[0].next(len(members))
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(len(runs) + 1, dtype=np.uint16))
    found = np.concatenate([run.next(end - start) for run, (start, end) in zip(runs, pairwise(bounds), strict=True)])
    steps = np.empty_like(found)
    steps[order] = found
    return steps


def _stepped(kind: FloatType, before: Ordered, start: Ordered, steps: Numbers) -> Ordered:
    """Raises BadDelta."""
    wide = np.int32 if steps.itemsize <= 2 and kind.bits == 16 else np.int64
    far: npt.NDArray[np.signedinteger[Any]] = steps.astype(wide)
    below: npt.NDArray[np.signedinteger[Any]] = (before >> before.dtype.type(kind.bits - 1)).astype(wide)
    far = (far ^ below) - below + start
    limit = 1 << (kind.bits - 1)
    if len(far) and not -limit <= far.min() <= far.max() < limit:
        raise BadDelta("a floating-point number outside its type")
    stepped: Ordered = far.astype(before.dtype)
    return stepped


def _encoded(kind: FloatType, new: Buffer, old: Buffer, factors: Factors | None, matrix: Matrix) -> bytes | None:
    before = ordered(kind, old)
    start = ordered(kind, _moved(kind, old, factors, matrix)) if factors else before
    wide = np.int32 if kind.bits == 16 else np.int64
    steps = ordered(kind, new).astype(wide) - start.astype(wide)
    if np.abs(steps).max(initial=0) >= 1 << 31:
        return None
    steps = np.where(before < 0, -steps, steps).astype(np.int32)
    classes = _CLASSES if len(steps) > _FEW else 1
    members = _class_of(kind, before, exponents(kind, before).max(initial=0), classes)
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(classes + 1, dtype=np.uint16))
    steps = steps[order]
    out = PayloadWriter()
    write_factors(out, factors)
    out.number(classes)
    for first, last in pairwise(bounds):
        out.number(int(last - first))
        write_numbers(out, steps[first:last])
    return bytes(out.data)


def _factors(ggml_type: str, new: Buffer, old: Buffer, matrix: Matrix) -> Factors | None:
    kind = FLOATS[ggml_type]
    before, after = read_floats(kind, old), read_floats(kind, new)
    typical = float(np.median(np.abs(before[:_TYPICAL])))
    precision = 2.0 ** (np.floor(np.log2(typical)) - kind.mantissa_bits) if typical > 0 else 0.0
    return find_factors((after - before).astype(np.float32), precision, matrix)


def _moved(kind: FloatType, old: Buffer, factors: Factors, matrix: Matrix) -> bytearray:
    """The old numbers with the update of the factors, rounded to their type."""
    moved = bytearray(old)
    width = kind.bits // 8
    for part, update in factors.update(matrix, len(moved) // width):
        within = slice(part.start * width, part.stop * width)
        moved[within] = round_floats(kind, read_floats(kind, moved[within]) + update)
    return moved


def _class_of(kind: FloatType, before: Ordered, largest: np.uint8, classes: int) -> npt.NDArray[np.uint8]:
    below: npt.NDArray[np.uint8] = np.minimum(largest - exponents(kind, before), np.uint8(classes - 1))
    return below
