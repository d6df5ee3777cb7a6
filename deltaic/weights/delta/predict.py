"""What the levels of a block should be under its new scales: the old values, rounded anew. Integers only.

A value of the old block is `scale0 * (level - zero) - minimum0`; under the new scale it lies at

    ratio * (level - zero) + shift,    ratio = scale0 / scale1,    shift = (minimum1 - minimum0) / scale1

levels from the new zero. Ratio and shift are fixed-point numbers, one of each for a sub-block, so that every machine
rounds alike. Half-precision numbers are taken as integers, in units of 2^-24, which holds all of them exactly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.lattice import Lattice, lattice_fraction
from deltaic.weights.delta.quants import Bytes, Layout
from deltaic.weights.delta.surprises import STEP, Small

Wide = npt.NDArray[np.int64]
Fixed = npt.NDArray[np.int32]
Levels = npt.NDArray[np.int16]

_RATIO_ONE = 1 << 14
_RATIO_LIMIT = 4 * _RATIO_ONE - 1
_SHIFT_LIMIT = (1 << 14) - 1


def half_integers(raw: npt.NDArray[np.uint16]) -> Wide:
    """Half-precision numbers in units of 2^-24; infinities and NaN as if they were numbers."""
    exponent = (raw >> np.uint16(10) & np.uint16(31)).astype(np.int64)
    mantissa = (raw & np.uint16(1023)).astype(np.int64)
    magnitude = np.where(exponent > 0, (mantissa + 1024) << np.maximum(exponent - 1, 0), mantissa)
    return np.where(raw & np.uint16(0x8000), -magnitude, magnitude)


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales and minimums of sub-blocks, (sub-blocks of a block, blocks), in units of 2^-24."""

    scale: Wide
    minimum: Wide

    @classmethod
    def of(cls, layout: Layout, blocks: Bytes) -> "Scales":
        """Of blocks (blocks, bytes)."""
        subs = layout.elements // layout.sub_elements
        columns = blocks.T

        def scaled(at: int, small: npt.NDArray[np.int64] | None) -> Wide:
            raw = columns[at].astype(np.uint16) | columns[at + 1].astype(np.uint16) << np.uint16(8)
            whole = half_integers(raw)
            return whole * small if small is not None else np.broadcast_to(whole, (subs, blocks.shape[0]))

        small = layout.sub_scales.unpack(columns) if layout.sub_scales else None
        if small is not None:
            small = small.view(np.int8) if layout.sub_scales and layout.sub_scales.bits == 8 else small
        scale = scaled(layout.scale, None if small is None else small.astype(np.int64) - layout.sub_scale_zero)
        if layout.minimum is None:
            return cls(scale, np.zeros_like(scale))
        least = layout.sub_minimums.unpack(columns).astype(np.int64) if layout.sub_minimums else None
        return cls(scale, scaled(layout.minimum, least) * layout.minimum_sign)


@dataclass(frozen=True, slots=True)
class Move:
    """How old levels move under new scales: for each sub-block a ratio (2^-14) and a shift (64ths of a level)."""

    ratio: Fixed
    shift: Fixed

    @classmethod
    def none(cls, shape: tuple[int, int]) -> "Move":
        """Of sub-blocks that stay as they are, (sub-blocks of a block, blocks)."""
        return cls(np.full(shape, _RATIO_ONE, np.int32), np.zeros(shape, np.int32))

    @classmethod
    def between(cls, old: Scales, new: Scales) -> "Move":
        """A sub-block whose new scale is zero, or that would move absurdly far, is taken to stay as it was."""
        divisor = np.where(new.scale == 0, 1, new.scale)
        ratio = _divide(old.scale << 14, divisor)
        shift = _divide((new.minimum - old.minimum) << 6, divisor)
        sane = (new.scale != 0) & (np.abs(ratio) <= _RATIO_LIMIT) & (np.abs(shift) <= _SHIFT_LIMIT)
        return cls(np.where(sane, ratio, _RATIO_ONE).astype(np.int32), np.where(sane, shift, 0).astype(np.int32))

    def is_near(self, layout: Layout) -> npt.NDArray[np.bool_]:
        """For each block whether no level can move by half a level or more."""
        low, high = layout.range
        reach = max(high - layout.zero, layout.zero - low)
        farthest = (np.abs(self.ratio - _RATIO_ONE) * reach >> 8) + np.abs(self.shift)
        near: npt.NDArray[np.bool_] = np.all(farthest < STEP // 2, axis=0)
        return near


def _divide(numerator: Wide, divisor: Wide) -> Wide:
    return numerator // divisor


@dataclass(frozen=True, slots=True)
class Prediction:
    """Levels, and how sure each is: `fraction` is the number less its level, `spread` how far it may be off, in 64ths.

    All are (elements, blocks). `spread` is None where the old levels were all that is known.
    """

    levels: Levels
    fraction: Small
    spread: Small | None


def predict_near(layout: Layout, levels: Levels, move: Move, lattice: Lattice) -> Prediction:
    """What the levels of blocks become that move by less than half a level; all of it fits into 16 bits."""
    shape = (-1, layout.sub_elements, levels.shape[1])
    centred = levels - np.int16(layout.zero) if layout.zero else levels
    by = (move.ratio - _RATIO_ONE).astype(np.int16)[:, None, :]
    number = centred.reshape(shape) * by
    number >>= np.int16(8)
    if move.shift.any():
        number += move.shift.astype(np.int16)[:, None, :]
    number = number.reshape(levels.shape)
    spread = None
    if lattice:
        fraction, spread = lattice_fraction(levels, layout.zero, lattice)
        number += fraction
    up, down = number >= STEP // 2, number < -(STEP // 2)
    crossing = up.any() or down.any()
    if not crossing:
        return Prediction(levels.copy(), number.astype(np.int8), spread)
    crossed = up.astype(np.int16) - down
    nearest = levels + crossed
    number -= crossed * np.int16(STEP)
    low, high = layout.range
    outside = (nearest < low) | (nearest > high)
    number[outside] = 0
    return Prediction(np.clip(nearest, low, high), number.astype(np.int8), spread)


def predict_far(layout: Layout, levels: Levels, move: Move, lattice: Lattice) -> Prediction:
    """What the levels of any blocks become."""
    exact = (levels.astype(np.int32) - layout.zero) * STEP
    spread = None
    if lattice:
        fraction, spread = lattice_fraction(levels, layout.zero, lattice)
        exact += fraction
    number = exact.reshape(-1, layout.sub_elements, levels.shape[1]) * move.ratio[:, None, :]
    number >>= 14
    number += move.shift[:, None, :]
    number = number.reshape(levels.shape)
    nearest = (number + STEP // 2) >> 6
    number -= nearest * STEP
    nearest += layout.zero
    low, high = layout.range
    number[(nearest < low) | (nearest > high)] = 0
    return Prediction(np.clip(nearest, low, high).astype(np.int16), number.astype(np.int8), spread)
