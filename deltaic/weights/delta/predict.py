"""What the levels of a block should be under its new scales: the old values, rounded anew. Integers only.

A value of the old block is `scale0 * (level - zero) - minimum0`; under the new scale it lies at

    ratio * (level - zero) + shift,    ratio = scale0 / scale1,    shift = (minimum1 - minimum0) / scale1

levels from the new zero. Ratio and shift are fixed-point numbers, one of each for a sub-block, so that every machine
rounds alike. Half-precision numbers are taken as integers, in units of 2^-24, which holds all of them exactly.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.quants import Bytes, Layout
from deltaic.weights.delta.surprises import STEP

Wide = npt.NDArray[np.int64]
Levels = npt.NDArray[np.int32]

_RATIO_ONE = 1 << 14
_RATIO_LIMIT = 4 * _RATIO_ONE - 1
_SHIFT_LIMIT = (1 << 14) - 1
LATTICE_STEPS = 15


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
        columns = np.ascontiguousarray(blocks.T)

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

    ratio: Levels
    shift: Levels

    @classmethod
    def between(cls, old: Scales, new: Scales) -> "Move":
        """A sub-block whose new scale is zero, or that would move absurdly far, is taken to stay as it was."""
        divisor = np.where(new.scale == 0, 1, new.scale)
        ratio = _divide(old.scale << 14, divisor)
        shift = _divide((new.minimum - old.minimum) << 6, divisor)
        sane = (new.scale != 0) & (np.abs(ratio) <= _RATIO_LIMIT) & (np.abs(shift) <= _SHIFT_LIMIT)
        return cls(np.where(sane, ratio, _RATIO_ONE).astype(np.int32), np.where(sane, shift, 0).astype(np.int32))

    def farthest(self, layout: Layout) -> Levels:
        """By how many 64ths of a level any level of a sub-block can move."""
        low, high = layout.range
        reach = max(high - layout.zero, layout.zero - low)
        return (np.abs(self.ratio - _RATIO_ONE) * reach >> 8) + np.abs(self.shift)


def _divide(numerator: Wide, divisor: Wide) -> Wide:
    return numerator // divisor


@dataclass(frozen=True, slots=True)
class Prediction:
    """Levels, and how sure each is: `fraction` is the number less its level, `spread` how far it may be off, in 64ths.

    All are (elements, blocks). `spread` is None where the old levels were all that is known.
    """

    levels: Levels
    fraction: npt.NDArray[np.int8]
    spread: npt.NDArray[np.int8] | None


class Lattice(IntEnum):
    """Whether, and how, old values are placed inside their levels. Numbers are part of the format."""

    NONE = 0
    BOUNDS = 1
    SQUARES = 2


def predict(layout: Layout, levels: Levels, move: Move, lattice: Lattice) -> Prediction:
    """What old `levels`, (elements, blocks), become."""
    subs = layout.elements // layout.sub_elements
    exact = (levels - layout.zero) * STEP
    spread = None
    if lattice:
        fraction, spread = lattice_fraction(levels, layout.zero, lattice)
        exact += fraction
    number = exact.reshape(subs, layout.sub_elements, -1) * move.ratio[:, None, :]
    number >>= 14
    number += move.shift[:, None, :]
    number = number.reshape(levels.shape)
    nearest = (number + STEP // 2) >> 6
    number -= nearest * STEP
    nearest += layout.zero
    low, high = layout.range
    outside = (nearest < low) | (nearest > high)
    if outside.any():
        number[outside] = 0
        np.clip(nearest, low, high, out=nearest)
    return Prediction(nearest, number.astype(np.int8), spread)


def lattice_fraction(levels: Levels, zero: int, lattice: Lattice) -> tuple[Levels, npt.NDArray[np.int8]]:
    """(fraction, spread): where in its level each value lay if 32 neighbours came from 16 evenly spaced values before.

    Weights that were quantised to four bits once (a base model that was dequantised to be tuned, as QLoRA does) still lie
    near such a lattice. The outermost value of a block defines its scale, so it lies in the middle of its level; what the
    others say together of the length of a step tells where each of them lies, far more exactly than its own level does.
    A value is never moved out of the level that it has.
    """
    groups = levels.reshape(-1, 32, levels.shape[1])
    lowest, highest = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    upwards = zero - lowest > highest - zero
    away = np.where(upwards, groups - lowest, highest - groups)
    steps = (away * ((LATTICE_STEPS << 16) // np.maximum(highest - lowest, 1)) + (1 << 15)) >> 16
    fraction, spread = _WAYS[lattice](away, steps)
    signed = np.where(upwards, fraction, -fraction)
    return signed.reshape(levels.shape), spread.reshape(levels.shape)


def _by_bounds(away: Levels, steps: Levels) -> tuple[Levels, npt.NDArray[np.int8]]:
    """Every level that is d steps away bounds a step from below and from above: the middle between the tightest bounds.

    The best where values lie on the lattice almost exactly. The spread is what the bounds leave open.
    """
    share = _RECIPROCALS[steps]
    shortest = ((2 * away - 1) * share).max(1, keepdims=True)
    longest = np.where(steps == 0, _NO_BOUND, (2 * away + 1) * share).min(1, keepdims=True)
    middle, half = (shortest + longest) >> 1, np.abs(longest - shortest) >> 1
    fraction = _inside((steps * np.minimum(middle, _NO_BOUND >> 5) >> 11) - away * STEP)
    fraction[np.broadcast_to(longest == _NO_BOUND, fraction.shape)] = 0
    return fraction, np.minimum(steps * np.minimum(half, _NO_BOUND >> 5) >> 11, 127).astype(np.int8)


def _by_squares(away: Levels, steps: Levels) -> tuple[Levels, npt.NDArray[np.int8]]:
    """The step of least squares. The best where values were moved farther from the lattice than bounds can bear.

    The spread is by how much the mean distance from the lattice exceeds what rounding alone explains (16 / 64).
    """
    product = (steps * away).sum(1, dtype=np.int32, keepdims=True)
    square = np.maximum((steps * steps).sum(1, dtype=np.int32, keepdims=True), 1)
    step = (product << 10) // square
    distance = (steps * step >> 4) - away * STEP
    beyond = (np.abs(distance).sum(1, dtype=np.int32, keepdims=True) >> 5) - 14
    spread = np.broadcast_to(np.clip(beyond, 0, 127), distance.shape)
    return _inside(distance), spread.astype(np.int8)


def _inside(fraction: Levels) -> Levels:
    return np.clip(fraction, 1 - STEP // 2, STEP // 2 - 1)


_WAYS = {Lattice.BOUNDS: _by_bounds, Lattice.SQUARES: _by_squares}
_NO_BOUND = 1 << 30
_RECIPROCALS = np.array([0, *((1 << 16) // step for step in range(1, LATTICE_STEPS + 1))], np.int32)
