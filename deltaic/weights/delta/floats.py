"""The codec FLOAT: numbers of one floating-point type from the same numbers before.

Bits of a floating-point number, read as an integer with its sign apart, rise with its value, so a difference of two such
integers counts steps of the format's own precision. An update moves numbers by about as much whatever their size: in
steps that is twice as much for each exponent less. So numbers are coded in classes of one exponent each.

    number      classes, C; the class of a number is how far its old exponent is below the largest, C - 1 at most
    numbers     for each class, in order: steps away from zero (positive) or towards and past it (negative)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta

Ordered = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FloatType:
    """How a type lays out its bits: sign, exponent, then `mantissa_bits`."""

    dtype: str
    bits: int
    mantissa_bits: int


FLOATS = {
    "F16": FloatType("<u2", 16, 10),
    "BF16": FloatType("<u2", 16, 7),
    "F32": FloatType("<u4", 32, 23),
}
_MAX_CLASSES = 256
_CHOICES = (1, 8, 14)
_FEW = 4096


def encode_floats(ggml_type: str, new: Buffer, old: Buffer) -> bytes | None:
    """The payload that makes `new` of `old`, of the same length; None when a number moves too far to be coded so."""
    kind = FLOATS[ggml_type]
    before = _ordered(kind, old)
    steps = _ordered(kind, new) - before
    if np.abs(steps).max(initial=0) >= 1 << 31:
        return None
    steps = np.where(before < 0, -steps, steps).astype(np.int32)
    written = []
    for classes in _CHOICES if len(steps) > _FEW else _CHOICES[:1]:
        out = PayloadWriter()
        out.number(classes)
        for members in _members(kind, before, classes):
            write_numbers(out, steps[members])
        written.append(bytes(out.data))
    return min(written, key=len)


def decode_floats(ggml_type: str, payload: Buffer, old: Buffer) -> bytes:
    """The new numbers. Raises BadDelta."""
    kind = FLOATS[ggml_type]
    before = _ordered(kind, old)
    reader = PayloadReader(payload)
    classes = reader.number(_MAX_CLASSES)
    if classes < 1:
        raise BadDelta("numbers in no class")
    steps = np.zeros(len(before), np.int32)
    for members in _members(kind, before, classes):
        steps[members] = read_all(reader, len(members))
    reader.finish()
    return _bits(kind, before + np.where(before < 0, -steps, steps))


def _ordered(kind: FloatType, data: Buffer) -> Ordered:
    """Integers in the order of the numbers: magnitudes, and below zero their complements."""
    raw = np.frombuffer(data, kind.dtype).astype(np.int64)
    sign = 1 << (kind.bits - 1)
    return np.where(raw & sign, -1 - (raw & (sign - 1)), raw)


def _bits(kind: FloatType, ordered: Ordered) -> bytes:
    sign = 1 << (kind.bits - 1)
    if len(ordered) and not -sign <= ordered.min() <= ordered.max() < sign:
        raise BadDelta("a floating-point number outside its type")
    return np.where(ordered < 0, sign | (-1 - ordered), ordered).astype(kind.dtype).tobytes()


def _members(kind: FloatType, before: Ordered, classes: int) -> list[npt.NDArray[np.int64]]:
    """For each class the places of its numbers."""
    if classes == 1:
        return [np.arange(len(before))]
    exponents = np.where(before < 0, -1 - before, before) >> kind.mantissa_bits
    below = np.minimum(exponents.max(initial=0) - exponents, classes - 1).astype(np.uint8)
    return [np.flatnonzero(below == one) for one in range(classes)]
