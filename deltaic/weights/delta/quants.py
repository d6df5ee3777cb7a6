"""Where the numbers of a quantisation block lie: scales, minimums and levels, down to the bit.

The layouts are those of ggml (`ggml-common.h`, `block_q4_0` and so on; `ggml-quants.c` for the packed scales). A test
rebuilds the values from them and compares with the `gguf` package.

A block stands for the values

    value = scale * (level - zero) - minimum

with a scale and a minimum for each sub-block of 16 or 32 elements: of a simple type the block's own, of a K type the
product of a half-precision number of the block and a small integer of the sub-block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Some bits of every entry of a field: entry i has `width` bits of byte `at[i]`, from bit `shift[i]` up.

    They are bits `low` and up of the entry.
    """

    at: tuple[int, ...]
    shift: tuple[int, ...]
    width: int
    low: int

    @cached_property
    def runs(self) -> tuple["Run", ...]:
        """All entries, cut into as few runs as possible, so that one operation does for many of them."""
        return tuple(
            Run(_steps(entries), _steps([self.at[one] for one in entries]), np.uint8(shift))
            for shift in sorted(set(self.shift))
            for entries in self._even(one for one, its in enumerate(self.shift) if its == shift)
        )

    def _even(self, entries: Iterable[int]) -> Iterator[list[int]]:
        """Cut where entries, or their bytes, are no longer the same distance apart."""
        run: list[int] = []
        for entry in entries:
            if len(run) > 1 and (entry - run[-1], self.at[entry] - self.at[run[-1]]) != (
                run[1] - run[0],
                self.at[run[1]] - self.at[run[0]],
            ):
                yield run
                run = []
            run.append(entry)
        yield run


@dataclass(frozen=True, slots=True)
class Run:
    """Entries of a piece at one shift, evenly spaced, and the bytes that they lie in, evenly spaced too."""

    entries: slice
    at: slice
    shift: np.uint8


def _steps(places: list[int]) -> slice:
    step = places[1] - places[0] if len(places) > 1 else 1
    return slice(places[0], places[-1] + 1, step)


@dataclass(frozen=True)
class Field:
    """Numbers of `bits` bits, as many in each block as every piece has entries."""

    name: str
    bits: int
    pieces: tuple[Piece, ...]

    @property
    def entries(self) -> int:
        return len(self.pieces[0].at)

    def unpack(self, columns: Bytes) -> npt.NDArray[np.uint8]:
        """All entries, (entries, blocks), of blocks that lie as columns: (bytes of a block, blocks).

        May be a view of the columns.
        """
        if self.bits == 8:
            return columns[self.pieces[0].runs[0].at]
        out = np.empty((self.entries, columns.shape[1]), np.uint8)
        for number, piece in enumerate(self.pieces):
            mask = np.uint8((1 << piece.width) - 1)
            for run in piece.runs:
                bits = columns[run.at] >> run.shift if run.shift else columns[run.at]
                if piece.width + run.shift < 8:
                    bits = bits & mask
                if number:
                    out[run.entries] |= bits << np.uint8(piece.low)
                else:
                    out[run.entries] = bits
        return out

    def pack(self, entries: Bytes, columns: Bytes) -> None:
        """What `unpack` gives back as `entries`, put into `columns` in place, where their bits are zero."""
        for piece in self.pieces:
            mask = np.uint8((1 << piece.width) - 1)
            for run in piece.runs:
                columns[run.at] |= (entries[run.entries] >> np.uint8(piece.low) & mask) << run.shift

    def gather(self, blocks: Bytes, block: Index, entry: Index) -> npt.NDArray[np.int32]:
        """Some entries: number `entry[i]` of block `block[i]`; `blocks` is (blocks, bytes of a block)."""
        found = np.zeros(len(block), np.int32)
        for at, shift, mask, low in self._tables:
            found |= ((blocks[block, at[entry]] >> shift[entry]) & mask).astype(np.int32) << low
        return found

    def flip(self, blocks: Bytes, block: Index, entry: Index, bits: npt.NDArray[np.int32]) -> None:
        """Exclusive-or `bits` into some entries, in place; no entry is named twice."""
        flat = blocks.reshape(-1)
        for at, shift, mask, low in self._tables:
            part = ((bits >> low).astype(np.uint8) & mask) << shift[entry]
            np.bitwise_xor.at(flat, block * blocks.shape[1] + at[entry], part)

    @cached_property
    def _tables(self) -> tuple[tuple[Index, Bytes, np.uint8, int], ...]:
        return tuple(
            (np.array(one.at), np.array(one.shift, np.uint8), np.uint8((1 << one.width) - 1), one.low)
            for one in self.pieces
        )


@dataclass(frozen=True)
class Layout:
    """One quantised type. `scale` and `minimum` say at which byte of a block these half-precision numbers lie.

    `sub_scales` and `sub_minimums` are the integers that they are multiplied by, one for each sub-block. `minimum_sign`
    is -1 where the half-precision number is added, not subtracted. `signed` levels are two's complement. `linear` is
    False where levels index a table.
    """

    name: str
    block_bytes: int
    levels: Field
    zero: int
    sub_elements: int
    scale: int
    minimum: int | None = None
    minimum_sign: int = 1
    sub_scales: Field | None = None
    sub_minimums: Field | None = None
    sub_scale_zero: int = 0
    signed: bool = False
    linear: bool = True

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest level."""
        half, whole = 1 << (self.levels.bits - 1), 1 << self.levels.bits
        return (-half, half - 1) if self.signed else (0, whole - 1)

    @property
    def elements(self) -> int:
        return self.levels.entries

    @property
    def small_fields(self) -> tuple[Field, ...]:
        """The integers of sub-blocks."""
        return tuple(one for one in (self.sub_scales, self.sub_minimums) if one is not None)

    @cached_property
    def scale_bytes(self) -> tuple[int, ...]:
        """The bytes of a block that hold no level."""
        halves = {at + byte for at in self.halves for byte in (0, 1)}
        small = {at for field in self.small_fields for piece in field.pieces for at in piece.at}
        return tuple(sorted(halves | small))

    @property
    def has_spans(self) -> bool:
        """Whether scale and minimum of a block are half-precision numbers and nothing else."""
        return self.minimum is not None and not self.small_fields

    @property
    def halves(self) -> tuple[int, ...]:
        """At which bytes the half-precision numbers of a block lie."""
        return (self.scale,) if self.minimum is None else (self.scale, self.minimum)


def _nibbles(start: int) -> Piece:
    """32 elements in 16 bytes: the low halves first."""
    at = tuple(start + index % 16 for index in range(32))
    return Piece(at, (0,) * 16 + (4,) * 16, 4, 0)


def _fifth_bits(start: int) -> Piece:
    return Piece(tuple(start + index // 8 for index in range(32)), tuple(index % 8 for index in range(32)), 1, 4)


def _plain(start: int, count: int, *, width: int = 8, shift: int = 0, low: int = 0) -> Piece:
    """One entry a byte."""
    return Piece(tuple(range(start, start + count)), (shift,) * count, width, low)


def _super(start: int, group: int, step: int, shifts: tuple[int, ...], width: int, low: int) -> Piece:
    """256 elements in groups; in each, runs of 32 elements share `step` bytes at one shift after the other."""
    at, shift = [], []
    for element in range(256):
        run, within = element % group // 32, element % 32
        at.append(start + element // group * step + within)
        shift.append(shifts[run])
    return Piece(tuple(at), tuple(shift), width, low)


def _k4_scales(minimums: bool) -> tuple[Piece, ...]:
    """The 6-bit scales or minimums that Q4_K and Q5_K pack into 12 bytes from byte 4: `get_scale_min_k4`."""
    first = 4 if minimums else 0
    low_at = tuple(4 + first + index for index in range(4)) + tuple(12 + index for index in range(4))
    high_at = low_at[:4] + tuple(4 + first + index for index in range(4))
    low_shift = (0,) * 4 + ((4,) * 4 if minimums else (0,) * 4)
    return Piece(low_at, low_shift, 4, 0), Piece(high_at, (4,) * 4 + (6,) * 4, 2, 4)


def _k3_scales() -> tuple[Piece, ...]:
    """The 6-bit scales that Q3_K packs into 12 bytes from byte 96: four low bits in 8 bytes, two high bits in 4."""
    low = Piece(tuple(96 + index % 8 for index in range(16)), (0,) * 8 + (4,) * 8, 4, 0)
    high = Piece(tuple(104 + index % 4 for index in range(16)), tuple(index // 4 * 2 for index in range(16)), 2, 4)
    return low, high


def _xs_scales() -> tuple[Piece, ...]:
    """The 6-bit scales of IQ4_XS: low nibbles from byte 4, pairs of high bits from byte 2."""
    low = Piece(tuple(4 + index // 2 for index in range(8)), tuple(index % 2 * 4 for index in range(8)), 4, 0)
    high = Piece(tuple(2 + index // 4 for index in range(8)), tuple(index % 4 * 2 for index in range(8)), 2, 4)
    return low, high


def _levels(bits: int, *pieces: Piece) -> Field:
    return Field("levels", bits, pieces)


_Q6_LOW = Piece(tuple(64 * (e // 128) + e % 64 for e in range(256)), tuple(e % 128 // 64 * 4 for e in range(256)), 4, 0)
_XS_LEVELS = Piece(
    tuple(8 + e // 32 * 16 + e % 16 for e in range(256)), tuple(e % 32 // 16 * 4 for e in range(256)), 4, 0
)

LAYOUTS = {
    one.name: one
    for one in (
        Layout("Q4_0", 18, _levels(4, _nibbles(2)), 8, 32, 0),
        Layout("Q4_1", 20, _levels(4, _nibbles(4)), 0, 32, 0, minimum=2, minimum_sign=-1),
        Layout("Q5_0", 22, _levels(5, _nibbles(6), _fifth_bits(2)), 16, 32, 0),
        Layout("Q5_1", 24, _levels(5, _nibbles(8), _fifth_bits(4)), 0, 32, 0, minimum=2, minimum_sign=-1),
        Layout("Q8_0", 34, _levels(8, _plain(2, 32)), 0, 32, 0, signed=True),
        Layout("IQ4_NL", 18, _levels(4, _nibbles(2)), 0, 32, 0, linear=False),
        Layout(
            "Q2_K",
            84,
            _levels(2, _super(16, 128, 32, (0, 2, 4, 6), 2, 0)),
            0,
            16,
            80,
            minimum=82,
            sub_scales=Field("scales", 4, (_plain(0, 16, width=4),)),
            sub_minimums=Field("minimums", 4, (_plain(0, 16, width=4, shift=4),)),
        ),
        Layout(
            "Q3_K",
            110,
            _levels(
                3,
                _super(32, 128, 32, (0, 2, 4, 6), 2, 0),
                Piece(tuple(e % 32 for e in range(256)), tuple(e // 32 for e in range(256)), 1, 2),
            ),
            4,
            16,
            108,
            sub_scales=Field("scales", 6, _k3_scales()),
            sub_scale_zero=32,
        ),
        Layout(
            "Q4_K",
            144,
            _levels(4, _super(16, 64, 32, (0, 4), 4, 0)),
            0,
            32,
            0,
            minimum=2,
            sub_scales=Field("scales", 6, _k4_scales(minimums=False)),
            sub_minimums=Field("minimums", 6, _k4_scales(minimums=True)),
        ),
        Layout(
            "Q5_K",
            176,
            _levels(
                5,
                _super(48, 64, 32, (0, 4), 4, 0),
                Piece(tuple(16 + e % 32 for e in range(256)), tuple(e // 32 for e in range(256)), 1, 4),
            ),
            0,
            32,
            0,
            minimum=2,
            sub_scales=Field("scales", 6, _k4_scales(minimums=False)),
            sub_minimums=Field("minimums", 6, _k4_scales(minimums=True)),
        ),
        Layout(
            "Q6_K",
            210,
            _levels(6, _Q6_LOW, _super(128, 128, 32, (0, 2, 4, 6), 2, 4)),
            32,
            16,
            208,
            sub_scales=Field("scales", 8, (_plain(192, 16),)),
        ),
        Layout(
            "IQ4_XS",
            136,
            _levels(4, _XS_LEVELS),
            0,
            32,
            0,
            sub_scales=Field("scales", 6, _xs_scales()),
            sub_scale_zero=32,
            linear=False,
        ),
    )
}
