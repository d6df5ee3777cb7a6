"""Updates that are a product of two thin matrices, as a LoRA that was merged into its base is.

    number      rank, R
    number      s: the product of the two integer matrices is the update in units of 2^-s
    numbers     for each of the R: the entries of its column of the left matrix, one for each row that the part touches
    numbers     for each of the R: the entries of its row of the right matrix, one for each column

The product is summed as integers below 2^53 in binary64, so its value depends neither on the order of the sum nor on
the machine. Finding the factors is the encoder's business (randomised SVD: N. Halko and others, SIAM Review 53, 2011).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import Numbers, read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.errors import BadDelta

Real = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

MAX_RANK = 64
_MAX_SHIFT = 1000
_MAX_ENTRY = 1 << 23
_OVERSAMPLING = 8
_PROBE_ROWS, _PROBE_RANK, _PROBE_SHARE = 128, 16, 0.5
_ENTRY_BITS = 8.0
_STRIP_ELEMENTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where elements lie in their matrix: elements of a row, and in which column the first one is."""

    row_elements: int
    first_column: int

    def rows(self, elements: int) -> int:
        """How many rows that many elements touch."""
        return -(-(self.first_column + elements) // self.row_elements)


@dataclass(frozen=True, slots=True)
class Factors:
    """`left` (rows, rank) times `right` (rank, columns), in units of 2^-shift."""

    left: Numbers
    right: Numbers
    shift: int

    def update(self, matrix: Matrix, elements: int) -> Iterator[tuple[slice, Real]]:
        """Slices of the elements, each with their update."""
        row = matrix.row_elements
        step = max(1, _STRIP_ELEMENTS // row)
        for first in range(0, len(self.left), step):
            rows = self.left[first : first + step].astype(np.float64)
            product = np.zeros((len(rows), row))
            for one in range(self.right.shape[0]):
                product += rows[:, one : one + 1] * self.right[one].astype(np.float64)
            product *= 2.0**-self.shift
            start = first * row - matrix.first_column
            begin, end = max(start, 0), min(start + product.size, elements)
            yield slice(begin, end), product.reshape(-1)[begin - start : end - start]


def write_factors(out: PayloadWriter, factors: Factors | None) -> None:
    out.number(factors.right.shape[0] if factors else 0)
    if factors:
        out.number(factors.shift)
        for column in factors.left.T:
            write_numbers(out, np.ascontiguousarray(column))
        for row in factors.right:
            write_numbers(out, row)


def read_factors(payload: PayloadReader, matrix: Matrix, elements: int) -> Factors | None:
    """Raises BadDelta."""
    rank = payload.number(MAX_RANK)
    if not rank:
        return None
    if not matrix.row_elements:
        raise BadDelta("factors of something that is no matrix")
    shift = payload.number(_MAX_SHIFT)
    rows, columns = matrix.rows(elements), matrix.row_elements
    if (rows + columns) * rank > 8 * elements:
        raise BadDelta("factors that are larger than their matrix")
    left = np.stack([read_all(payload, rows) for _ in range(rank)], 1)
    right = np.stack([read_all(payload, columns) for _ in range(rank)])
    if max(np.abs(left).max(), np.abs(right).max()) > _MAX_ENTRY:
        raise BadDelta("factors whose product cannot be summed exactly")
    return Factors(left, right, shift)


def find_factors(update: Single, precision: float, matrix: Matrix) -> Factors | None:
    """Factors of an update, flat, if it has few; `precision` is the step of a typical element."""
    row = matrix.row_elements
    rows = matrix.rows(len(update)) if row else 0
    if min(rows, row) < 2 * _PROBE_RANK or precision <= 0:
        return None
    flat = np.zeros(rows * row, np.float32)
    flat[matrix.first_column : matrix.first_column + len(update)] = update
    whole: Single = flat.reshape(rows, row)
    if not _looks_thin(whole):
        return None
    left, sizes, right = _thin_svd(whole, min(MAX_RANK, min(rows, row) // 4))
    rank = _worthwhile(whole, sizes, precision)
    if not rank:
        return None
    roots = np.sqrt(sizes[:rank])
    return _rounded(left[:, :rank] * roots, right[:rank] * roots[:, None], precision)


def _looks_thin(whole: Single) -> bool:
    """Whether few singular values of some rows hold most of them."""
    rows = whole[:: max(1, len(whole) // _PROBE_ROWS)][:_PROBE_ROWS]
    energies = np.linalg.eigvalsh(rows @ rows.T)
    energy = float(energies.sum())
    return energy > 0 and float(energies[-_PROBE_RANK:].sum()) > _PROBE_SHARE * energy


def _thin_svd(whole: Single, rank: int) -> tuple[Single, Single, Single]:
    random = np.random.default_rng(0)
    start = random.standard_normal((whole.shape[1], rank + _OVERSAMPLING)).astype(np.float32)
    basis, _ = np.linalg.qr(whole @ start)
    basis, _ = np.linalg.qr(whole @ (whole.T @ basis))
    left, sizes, right = np.linalg.svd(basis.T @ whole, full_matrices=False)
    return (basis @ left)[:, :rank], sizes[:rank], right[:rank]


def _worthwhile(whole: Single, sizes: Single, precision: float) -> int:
    """How many factors save more bits than they take."""
    count, cost = whole.size, sum(whole.shape) * _ENTRY_BITS
    rounding = precision**2 / 12
    energy = float(np.square(whole, dtype=np.float64).sum())
    rank = 0
    for size in sizes.tolist():
        rest = max(energy - size**2, 0.0)
        saved = count / 2 * np.log2((energy / count + rounding) / (rest / count + rounding))
        if saved < cost:
            break
        rank, energy = rank + 1, rest
    return rank


def _rounded(left: Single, right: Single, precision: float) -> Factors | None:
    """Both to integers, finely enough that their product is off by a fraction of the precision."""
    fine_left = _fineness(0.4 * precision / float(np.sqrt(np.square(right).sum(0).mean())))
    fine_right = _fineness(0.4 * precision / float(np.sqrt(np.square(left).sum(1).mean())))
    whole_left = np.rint(left.astype(np.float64) * 2.0**fine_left)
    whole_right = np.rint(right.astype(np.float64) * 2.0**fine_right)
    shift = fine_left + fine_right
    if max(np.abs(whole_left).max(), np.abs(whole_right).max()) > _MAX_ENTRY or not 0 <= shift <= _MAX_SHIFT:
        return None
    return Factors(whole_left.astype(np.int32), whole_right.astype(np.int32), shift)


def _fineness(step: float) -> int:
    return int(np.ceil(-np.log2(step)))
