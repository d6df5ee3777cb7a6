"""The floating-point types of tensors: their bits as integers in the order of the numbers, and their values.

Bits of a floating-point number, read as an integer with its sign apart, rise with its value, so a difference of two
such integers counts steps of the format's own precision.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deltaic.weights.digest import Buffer

Ordered = npt.NDArray[np.signedinteger[Any]]
"""16 or 32 bits wide: magnitudes, and below zero their complements."""
Real = npt.NDArray[np.float64]


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


def read_floats(kind: FloatType, data: Buffer) -> npt.NDArray[np.float64]:
    """The numbers; 0 for what is none."""
    raw = np.frombuffer(data, kind.dtype)
    if kind.bits == 32:
        found = raw.view(np.float32)
    elif kind.mantissa_bits == 10:
        found = raw.view(np.float16)
    else:
        found = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        wide = found.astype(np.float64)
    return np.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0)


def round_floats(kind: FloatType, values: npt.NDArray[np.float64]) -> bytes:
    """Numbers rounded to binary32, then to the type, ties to even."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        if kind.bits == 32:
            return single.tobytes()
        if kind.mantissa_bits == 10:
            return single.astype(np.float16).tobytes()
    bits = single.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    return rounded.astype(np.uint16).tobytes()


def ordered(kind: FloatType, data: Buffer) -> Ordered:
    return _turned(kind, np.frombuffer(data, kind.dtype.replace("u", "i")))


def unordered(kind: FloatType, numbers: Ordered) -> bytes:
    """The bytes that `ordered` reads so."""
    return _turned(kind, numbers).tobytes()


def exponents(kind: FloatType, numbers: Ordered) -> npt.NDArray[np.uint8]:
    """Biased, as they are stored."""
    below = numbers >> numbers.dtype.type(kind.bits - 1)
    return ((numbers ^ below) >> numbers.dtype.type(kind.mantissa_bits)).astype(np.uint8)


def _turned(kind: FloatType, numbers: Ordered) -> Ordered:
    """From the bits of numbers to their order, and back: below zero all bits but the sign are turned over."""
    below = numbers >> numbers.dtype.type(kind.bits - 1)
    turned: Ordered = numbers ^ (below & numbers.dtype.type((1 << (kind.bits - 1)) - 1))
    return turned
