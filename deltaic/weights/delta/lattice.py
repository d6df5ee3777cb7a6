"""Where in its level a value lay, if its block came from sixteen evenly spaced values before.

Weights that were quantised to four bits once (a base model that was dequantised to be tuned, as QLoRA does) still lie
near such a lattice. The outermost value of a block defines its scale, so it lies in the middle of its level; what 32
neighbours say together of the length of a step tells where each of them lies, far more exactly than its own level does.

All numbers are small integers, but for one division: binary32 quotients of integers below 2^10, which IEEE 754 defines
to the last bit. What follows from them is exact, so it is the same on every machine.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.surprises import STEP, Small

Levels = npt.NDArray[np.int16]
Single = npt.NDArray[np.float32]

GROUP_ELEMENTS = 32
_STEPS = 15
_LIMIT = np.float32(1 << 14)


class Lattice(IntEnum):
    """Whether, and how, old values are placed inside their levels. Numbers are part of the format."""

    NONE = 0
    BOUNDS = 1
    SQUARES = 2


def lattice_fraction(levels: Levels, zero: int, lattice: Lattice) -> tuple[Levels, Small]:
    """(fraction, spread) of old `levels`, (elements, blocks), in 64ths: where values lie, how far off that may be.

    A value is never moved out of the level that it has.
    """
    groups = levels.reshape(-1, GROUP_ELEMENTS, levels.shape[1])
    lowest, highest = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    upwards = zero - lowest > highest - zero
    turn = np.where(upwards, 1, -1).astype(np.int16)
    away = groups * turn
    away -= np.where(upwards, lowest, -highest)
    share = np.uint16(_STEPS << 12) // np.maximum(highest - lowest, np.int16(1)).view(np.uint16)
    steps = away.view(np.uint16) * share
    steps += np.uint16(1 << 11)
    steps >>= np.uint16(12)
    fraction, spread = _WAYS[lattice](away, steps.view(np.int16))
    np.clip(fraction, 1 - STEP // 2, STEP // 2 - 1, out=fraction)
    fraction *= turn
    return fraction.reshape(levels.shape), spread.reshape(levels.shape)


def _by_bounds(away: Levels, steps: Levels) -> tuple[Levels, Small]:
    """Every level that is d steps away bounds a step from below and from above: the middle between the tightest bounds.

    The best where values lie on the lattice almost exactly. The spread is what the bounds leave open.
    """
    count = steps.astype(np.float32)
    twice = (away * (steps > 0)).astype(np.float32)
    twice *= np.float32(2)
    twice -= np.float32(1)
    with np.errstate(divide="ignore"):
        shortest = (twice / count).max(1, keepdims=True)
        twice += np.float32(2)
        longest = (twice / count).min(1, keepdims=True)
    # Halves of halves, in 64ths: 16 * (shortest + longest) is the middle.
    np.clip(shortest, -_LIMIT, _LIMIT, out=shortest)
    np.clip(longest, -_LIMIT, _LIMIT, out=longest)
    middle, half = _sixteenths(shortest + longest), _sixteenths(np.abs(longest - shortest))
    fraction = count * middle
    fraction -= away * np.float32(STEP)
    np.clip(fraction, -STEP, STEP, out=fraction)
    count *= half
    np.minimum(count, np.float32(127), out=count)
    return fraction.astype(np.int16), count.astype(np.int8)


def _by_squares(away: Levels, steps: Levels) -> tuple[Levels, Small]:
    """The step of least squares. The best where values were moved farther from the lattice than bounds can bear.

    The spread is by how much the mean distance from the lattice exceeds what rounding alone explains (16 / 64).
    """
    product = (steps * away).sum(1, dtype=np.int32, keepdims=True)
    square = (steps * steps).sum(1, dtype=np.int32, keepdims=True)
    step = (product << 10) // np.maximum(square, 1)
    distance = (steps * step >> 4) - away * np.int32(STEP)
    beyond = (np.abs(distance).sum(1, dtype=np.int32, keepdims=True) >> 5) - 14
    spread = np.broadcast_to(np.clip(beyond, 0, 127).astype(np.int8), distance.shape)
    return np.clip(distance, -STEP, STEP).astype(np.int16), spread


def _sixteenths(value: Single) -> Single:
    """Of a length in halves of a level: 16 of them are a 64th of twice that. Cut to a multiple of 2^-8, so that what
    follows is exact.
    """
    cut: Single = np.trunc(value * np.float32(16 * 256)) * np.float32(1 / 256)
    return cut


_WAYS = {Lattice.BOUNDS: _by_bounds, Lattice.SQUARES: _by_squares}
