"""Whole numbers that are mostly small: residuals of a prediction, all of one class.

    byte        how: 0 all are zero, 1 sparse, 2 dense
    sparse      set of the places that are not zero; set of those of them that are negative;
                their magnitudes less one, again as numbers, unsigned
    dense       byte: bits of a symbol (1, 2, 4, 8, 16, 32); symbols are zigzag (unsigned numbers as they are), several
                in a byte from the lowest bits up, wide ones as planes of bytes; each plane counted, byte: 0 as it is,
                1 a zstd frame

Which of the two is shorter is measured. Sparse follows a probability without a table, dense (by the Huffman code inside
zstd) a shape.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta import frames
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.sets import MAX_LISTED, Places, read_set, set_bits, write_set
from deltaic.weights.errors import BadDelta

Numbers = npt.NDArray[np.signedinteger[Any]]
"""As narrow as they fit: 8, 16 or 32 bits."""

Symbols = npt.NDArray[np.unsignedinteger[Any]]

_ZERO, _SPARSE, _DENSE = 0, 1, 2
_WIDTHS = (1, 2, 4, 8, 16, 32)
_DEPTH = 6
_RARE = 12
"""Where fewer than one number in so many is not zero, dense is not even tried."""


def write_numbers(out: PayloadWriter, values: Numbers, *, signed: bool = True) -> None:
    """Write numbers whose count the reader knows; each below 2^31 in magnitude."""
    places = np.flatnonzero(values != 0)
    write_sparse_numbers(out, places, values[places].astype(np.int32), len(values), signed=signed)


def write_sparse_numbers(
    out: PayloadWriter, places: Places, values: Numbers, count: int, *, signed: bool = True, depth: int = 0
) -> None:
    """The same for `count` numbers of which all are zero but `values` at rising `places`."""
    if not len(places):
        out.number(_ZERO)
        return
    written: list[PayloadWriter] = []
    if len(places) <= MAX_LISTED and depth < _DEPTH and _sparse_may_win(len(places), count):
        written.append(
            _tried(_SPARSE, lambda one: _write_sparse(one, places, values, count, signed=signed, depth=depth))
        )
    if not written or len(places) * _RARE > count:
        written.append(_tried(_DENSE, lambda one: _write_dense(one, _spread_out(places, values, count), signed=signed)))
    out.fixed(min((one.data for one in written), key=len))


def _spread_out(places: Places, values: Numbers, count: int) -> Numbers:
    whole = np.zeros(count, np.int32)
    whole[places] = values
    return whole


def read_numbers(
    payload: PayloadReader, count: int, *, signed: bool = True, depth: int = 0
) -> tuple[Places | None, Numbers]:
    """(places, values): the numbers that are not zero and where; places None when all `count` numbers are there.

    Raises BadDelta.
    """
    how = payload.number(_DENSE)
    if how == _ZERO:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    if how == _DENSE:
        return None, _read_dense(payload, count, signed=signed)
    if depth >= _DEPTH:
        raise BadDelta("numbers nested too deep")
    places = read_set(payload, count)
    negative = read_set(payload, len(places)) if signed else None
    values = np.ones(len(places), np.int32)
    above, more = read_numbers(payload, len(places), signed=False, depth=depth + 1)
    with np.errstate(over="ignore"):
        if above is None:
            values += more
        else:
            values[above] += more
    if negative is not None:
        values[negative] *= -1
    return places, values


def read_all(payload: PayloadReader, count: int, *, signed: bool = True) -> Numbers:
    """All `count` numbers, zeros too."""
    places, values = read_numbers(payload, count, signed=signed)
    if places is None:
        return values
    whole: Numbers = np.zeros(count, np.int8 if np.abs(values).max(initial=0) < 128 else np.int32)
    whole[places] = values
    return whole


def _tried(how: int, write: Callable[[PayloadWriter], None]) -> PayloadWriter:
    out = PayloadWriter()
    out.number(how)
    write(out)
    return out


def _sparse_may_win(taken: int, count: int) -> bool:
    return set_bits(taken, count) < 1.1 * count


def _write_sparse(out: PayloadWriter, places: Places, values: Numbers, count: int, *, signed: bool, depth: int) -> None:
    write_set(out, places, count)
    if signed:
        write_set(out, np.flatnonzero(values < 0), len(values))
    above = np.abs(values) - 1
    more = np.flatnonzero(above != 0)
    write_sparse_numbers(out, more, above[more], len(values), signed=False, depth=depth + 1)


def _write_dense(out: PayloadWriter, values: Numbers, *, signed: bool) -> None:
    symbols = _zigzag(values) if signed else values.astype(np.uint32)
    width = next(one for one in _WIDTHS if int(symbols.max()) < 1 << one)
    out.number(width)
    for plane in _planes(symbols, width):
        raw = plane.tobytes()
        packed = frames.pack(raw)
        shorter = len(packed) < len(raw)
        out.number(shorter)
        out.counted(packed if shorter else raw)


def _read_dense(payload: PayloadReader, count: int, *, signed: bool) -> Numbers:
    width = payload.number(32)
    if width not in _WIDTHS:
        raise BadDelta(f"numbers of {width} bits")
    length = -(-count * min(width, 8) // 8)
    symbols: Symbols = np.zeros(0, np.uint8)
    for index in range(max(1, width // 8)):
        packed = payload.number(1)
        data = payload.counted()
        plane = np.frombuffer(frames.expand(data, length) if packed else data, np.uint8)
        if len(plane) != length:
            raise BadDelta("a plane of numbers that is too short or too long")
        widened = _widened(_spread(plane, width, count), width)
        if index:
            widened <<= widened.dtype.type(8 * index)
            widened |= symbols
        symbols = widened
    return _unzigzag(symbols) if signed else _as_signed(symbols)


def _planes(symbols: Symbols, width: int) -> list[npt.NDArray[np.uint8]]:
    """Bytes of the symbols: several symbols in one, or one symbol in several."""
    if width >= 8:
        return [(symbols >> (8 * index)).astype(np.uint8) for index in range(width // 8)]
    each = 8 // width
    rows = np.zeros(-(-len(symbols) // each) * each, np.uint8)
    rows[: len(symbols)] = symbols
    shifted = rows.reshape(-1, each) << (width * np.arange(each, dtype=np.uint8))
    return [np.bitwise_or.reduce(shifted, axis=1)]


def _spread(plane: npt.NDArray[np.uint8], width: int, count: int) -> npt.NDArray[np.uint8]:
    if width >= 8:
        return plane
    each = 8 // width
    parts = plane[:, None] >> (width * np.arange(each, dtype=np.uint8))
    parts &= np.uint8((1 << width) - 1)
    return parts.reshape(-1)[:count]


def _widened(plane: npt.NDArray[np.uint8], width: int) -> Symbols:
    return plane if width <= 8 else plane.astype(f"u{width // 8}")


def _zigzag(values: Numbers) -> Symbols:
    wide = values.astype(np.int32)
    return ((wide << 1) ^ (wide >> 31)).view(np.uint32)


def _unzigzag(symbols: Symbols) -> Numbers:
    """Of unsigned numbers into signed ones of the same width."""
    sign = symbols & symbols.dtype.type(1)
    turned = np.right_shift(symbols, symbols.dtype.type(1), out=symbols if symbols.flags.writeable else None)
    turned ^= np.negative(sign, out=sign)
    signed: Numbers = turned.view(_signed(symbols))
    return signed


def _as_signed(symbols: Symbols) -> Numbers:
    """Raises BadDelta where the highest bit of 32 is taken: nobody writes numbers so large."""
    if symbols.dtype.itemsize == 4:
        if int(symbols.max(initial=0)) >> 31:
            raise BadDelta("a number beyond 31 bits")
        return symbols.view(np.int32)
    wider: Numbers = symbols.astype(f"i{2 * symbols.dtype.itemsize}")
    return wider


def _signed(symbols: Symbols) -> str:
    return f"i{symbols.dtype.itemsize}"
