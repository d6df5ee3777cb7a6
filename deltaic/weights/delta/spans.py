"""Scales that follow from minimums: of blocks that have both, and both from their outermost weights.

A plain quantiser takes the lowest weight of a block as its minimum, and as its scale an even part of the span to the
highest (`quantize_row_q4_1_ref`, `quantize_row_q5_1_ref` in `ggml-quants.c`). A minimum that moves takes the scale
with it: once it is known, the scale is foretold as if the highest weight had stayed. Where that was the old numbers
say, but for the rounding of the scale; weights that were stored in 16 bits lie on a grid, and so does the highest.

    number      bits of a significand on that grid: 8 for BF16, 11 for F16; 0 where there is none
    numbers     scales of the blocks whose minimum stayed: new less old
    numbers     scales of the blocks whose minimum moved: new less foretold

Differences are those of the 16 bits of a number, modulo 2^16, from -2^15 up.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.halves import Halves
from deltaic.weights.delta.numbers import read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.errors import BadDelta

_GRIDS = (0, 8, 11)
_SIGNIFICAND_BITS = 24
_EXPONENT = np.uint16(0x7C00)


@dataclass(frozen=True, slots=True)
class Spans:
    """Scale and minimum of each block; `steps` of the scale lead from its lowest weight to its highest."""

    scale: Halves
    minimum: Halves
    steps: int

    def of(self, blocks: npt.NDArray[np.bool_]) -> "Spans":
        return Spans(self.scale[blocks], self.minimum[blocks], self.steps)

    def foretell(self, minimum: Halves, grid: int) -> Halves:
        """New scales under new minimums, if the highest weights stay; as they were where that gives no number.

        In binary32, each operation rounded, so that every machine foretells alike.
        """
        with np.errstate(all="ignore"):
            steps = np.float32(self.steps)
            highest = _on_grid(_wide(self.minimum) + steps * _wide(self.scale), grid)
            new = ((highest - _wide(minimum)) / steps).astype(np.float16).view(np.uint16)
        return np.where(new & _EXPONENT == _EXPONENT, self.scale, new)


def write_spans(out: PayloadWriter, new: Spans, old: Spans) -> None:
    """Write the new scales for a reader who has `old` and the new minimums."""
    moved = new.minimum != old.minimum
    after, before = new.of(moved), old.of(moved)
    wrong = {grid: after.scale - before.foretell(after.minimum, grid) for grid in _GRIDS}
    grid = min(_GRIDS, key=lambda one: np.count_nonzero(wrong[one]))
    out.number(grid)
    write_numbers(out, (new.scale[~moved] - old.scale[~moved]).view(np.int16))
    write_numbers(out, wrong[grid].view(np.int16))


def read_spans(payload: PayloadReader, minimum: Halves, old: Spans) -> Halves:
    """The new scales; `minimum` are the new minimums. Raises BadDelta."""
    grid = payload.number(_GRIDS[-1])
    if grid not in _GRIDS:
        raise BadDelta(f"weights with a significand of {grid} bits")
    moved = minimum != old.minimum
    scale = old.scale.copy()
    scale[moved] = old.of(moved).foretell(minimum[moved], grid)
    for blocks in (~moved, moved):
        scale[blocks] += read_all(payload, int(np.count_nonzero(blocks))).astype(np.uint16)
    return scale


def _wide(halves: Halves) -> npt.NDArray[np.float32]:
    return halves.view(np.float16).astype(np.float32)


def _on_grid(values: npt.NDArray[np.float32], grid: int) -> npt.NDArray[np.float32]:
    """Rounded to so many bits of significand, ties to even."""
    if not grid:
        return values
    bits, dropped = values.view(np.uint32), np.uint32(_SIGNIFICAND_BITS - grid)
    below_half = (np.uint32(1) << (dropped - np.uint32(1))) - np.uint32(1)
    odd = bits >> dropped & np.uint32(1)
    rounded: npt.NDArray[np.uint32] = (bits + below_half + odd) >> dropped << dropped
    return rounded.view(np.float32)
