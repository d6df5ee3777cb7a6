"""Some of n places: the gaps between them in a Golomb code.

Where each place is taken with the same probability, gaps are geometric, and the Golomb code (S. W. Golomb,
"Run-length encodings", IEEE Trans. Inf. Theory 12, 1966) is the best prefix code for them. It needs no table, so a set
of ten places costs what its ten places are worth. Divisors are 2^k and 3*2^k: one of them is always close to the best.

    number      2 * places, plus 1 when the places that are NOT taken are listed (never more than half are listed)
    byte        index of the divisor; absent when no place is listed
    counted     quotients in unary: for each place so many 0 bits, then a 1
    fixed       remainders: trits, five in a byte (divisors 3*2^k), then k planes of bits

Bits fill bytes from the lowest.
"""

import math

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.errors import BadDelta

Places = npt.NDArray[np.int64]
_Gaps = npt.NDArray[np.uint32]

MAX_LISTED = 1 << 18
"""Places that one set may list; whoever would list more writes the numbers themselves (`numbers`)."""

DIVISORS = tuple(sorted([1 << k for k in range(24)] + [3 << k for k in range(22)]))
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)
_TRITS = np.arange(256, dtype=np.uint8)[:, None] // _POWERS_OF_3 % 3
"""The five trits of a byte, the first the lowest."""


def write_set(out: PayloadWriter, places: Places, count: int) -> None:
    """Write rising `places`, each from 0 to `count` - 1; at most MAX_LISTED of them may be listed."""
    inverted = 2 * len(places) > count
    listed = _others(places, count) if inverted else places
    out.number(2 * len(listed) + inverted)
    if not len(listed):
        return
    gaps = listed.astype(np.uint32)
    gaps[1:] -= gaps[:-1] + np.uint32(1)
    index = min(_candidates(count, len(listed)), key=lambda one: _bits(gaps, DIVISORS[one]))
    divisor = np.uint32(DIVISORS[index])
    out.fixed(bytes([index]))
    quotients = gaps // divisor
    out.counted(_unary(quotients))
    _write_remainders(out, gaps - quotients * divisor, DIVISORS[index])


def read_set(payload: PayloadReader, count: int) -> Places:
    """The places, rising. Raises BadDelta; allocates a byte for each of `count`, and some for each of MAX_LISTED."""
    head = payload.number(2 * min(count, 2 * MAX_LISTED) + 1)
    length, inverted = head >> 1, head & 1
    if length > MAX_LISTED:
        raise BadDelta(f"a set that lists {length:,} places; at most {MAX_LISTED:,} are accepted")
    listed = _read_listed(payload, length, count) if length else np.empty(0, np.int64)
    if not inverted:
        return listed
    if 2 * len(listed) > count or count > 2 * MAX_LISTED:
        raise BadDelta("an inverted set that would be shorter as it is")
    return _others(listed, count)


def _others(places: Places, count: int) -> Places:
    others = np.ones(count, np.bool_)
    others[places] = False
    return np.flatnonzero(others)


def set_bits(listed: int, count: int) -> float:
    """About how many bits a set of so many places takes, for choosing between ways to write numbers."""
    if not 0 < listed < count:
        return 16.0
    share = listed / count
    return 24 - 1.02 * count * (share * math.log2(share) + (1 - share) * math.log2(1 - share))


def _read_listed(payload: PayloadReader, length: int, count: int) -> Places:
    index = payload.number(255)
    if index >= len(DIVISORS):
        raise BadDelta("a set with an unknown divisor")
    divisor = DIVISORS[index]
    unary = np.frombuffer(payload.counted(), np.uint8)
    if 8 * len(unary) > length + count // divisor + 8:
        raise BadDelta("a set with gaps beyond its range")
    bits = np.unpackbits(unary, bitorder="little").view(np.bool_)
    if np.count_nonzero(bits) != length:
        raise BadDelta("a set with another number of places than it says")
    ranks = np.arange(length)
    places = np.flatnonzero(bits)
    places -= ranks
    places *= divisor
    places += ranks
    places += np.cumsum(_read_remainders(payload, length, divisor), dtype=np.int64)
    if places[-1] >= count:
        raise BadDelta("a set with a place outside its range")
    return places


def _candidates(count: int, listed: int) -> range:
    """Divisors around ln 2 times the mean gap, where the best one is."""
    best = int(np.searchsorted(DIVISORS, 0.69 * count / listed))
    return range(max(0, best - 2), min(len(DIVISORS), best + 2))


def _bits(gaps: _Gaps, divisor: int) -> float:
    return float((gaps // np.uint32(divisor)).sum()) + len(gaps) * (1 + _remainder_bits(divisor))


def _remainder_bits(divisor: int) -> float:
    return divisor.bit_length() - 1 if divisor & (divisor - 1) == 0 else 1.6 + (divisor // 3).bit_length() - 1


def _unary(quotients: _Gaps) -> bytes:
    ends = np.cumsum(quotients, dtype=np.int64) + np.arange(len(quotients))
    bits = np.zeros(int(ends[-1]) + 1, np.bool_)
    bits[ends] = True
    return np.packbits(bits, bitorder="little").tobytes()


def _write_remainders(out: PayloadWriter, remainders: _Gaps, divisor: int) -> None:
    low = divisor
    if divisor & (divisor - 1):
        low = divisor // 3
        high = remainders // np.uint32(low)
        remainders = remainders - high * np.uint32(low)
        trits = np.zeros(-(-len(high) // 5) * 5, np.uint8)
        trits[: len(high)] = high
        out.fixed((trits.reshape(-1, 5) * _POWERS_OF_3).sum(1, dtype=np.uint8).tobytes())
    for bit in range(low.bit_length() - 1):
        out.fixed(np.packbits(remainders & np.uint32(1 << bit) != 0, bitorder="little").tobytes())


def _read_remainders(payload: PayloadReader, length: int, divisor: int) -> _Gaps:
    low = divisor if divisor & (divisor - 1) == 0 else divisor // 3
    remainders = np.zeros(length, np.uint32)
    if low != divisor:
        packed = np.frombuffer(payload.fixed(-(-length // 5)), np.uint8)
        remainders += _TRITS.take(packed, 0).reshape(-1)[:length]
        remainders *= np.uint32(low)
    each = -(-length // 8)
    planes = np.frombuffer(payload.fixed(each * (low.bit_length() - 1)), np.uint8)
    for bit in range(low.bit_length() - 1):
        plane = np.unpackbits(planes[bit * each : bit * each + each], count=length, bitorder="little")
        remainders |= plane.astype(np.uint32) << np.uint32(bit)
    return remainders
