"""Half-precision numbers that were other half-precision numbers before: scales and minimums of blocks, F16 itself.

An update moves a number by about as much whatever its size, so how many steps of its own precision that is depends on
its exponent: numbers are coded in classes of one exponent each.

    set         places where the sign changed
    number      classes, C; the class of a number is how far its old exponent is below the largest, C - 1 at most
    numbers     for each class: new magnitude less old magnitude, as integers (the 15 bits below the sign)
"""

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.sets import read_set, write_set
from deltaic.weights.errors import BadDelta

Halves = npt.NDArray[np.uint16]

_SIGN = np.uint16(0x8000)
_MAGNITUDE = np.uint16(0x7FFF)
_EXPONENT_SHIFT = np.uint16(10)
_MAX_CLASSES = 32
_CHOICES = (1, 3, 6)


def write_halves(out: PayloadWriter, new: Halves, old: Halves) -> None:
    """Write `new`, of whose length the reader has `old`."""
    written = []
    for classes in _CHOICES if len(old) >= 64 else _CHOICES[:1]:
        one = PayloadWriter()
        write_set(one, np.flatnonzero((new ^ old) & _SIGN), len(old))
        one.number(classes)
        steps = (new & _MAGNITUDE).astype(np.int32) - (old & _MAGNITUDE).astype(np.int32)
        for members in _members(old, classes):
            write_numbers(one, steps[members])
        written.append(one.data)
    out.fixed(min(written, key=len))


def read_halves(payload: PayloadReader, old: Halves) -> Halves:
    """The new numbers. Raises BadDelta."""
    flipped = read_set(payload, len(old))
    classes = payload.number(_MAX_CLASSES)
    magnitude = (old & _MAGNITUDE).astype(np.int32)
    for members in _members(old, classes):
        steps = read_all(payload, len(members))
        magnitude[members] += steps
    if classes < 1 or (len(magnitude) and not 0 <= magnitude.min() <= magnitude.max() <= int(_MAGNITUDE)):
        raise BadDelta("a half-precision number outside its range")
    new = magnitude.astype(np.uint16) | (old & _SIGN)
    new[flipped] ^= _SIGN
    return new


def _members(old: Halves, classes: int) -> list[npt.NDArray[np.int64]]:
    """For each class the places of its numbers."""
    if classes == 1:
        return [np.arange(len(old))]
    exponents = ((old & _MAGNITUDE) >> _EXPONENT_SHIFT).astype(np.int16)
    below = np.minimum(exponents.max(initial=0) - exponents, classes - 1)
    return [np.flatnonzero(below == one) for one in range(classes)]
