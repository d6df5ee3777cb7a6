"""Levels that are not what was predicted, coded in the context of how near the prediction was to being another one.

A predicted level is a number that was rounded. Where that number lay close to the border of its level, the true level is
often the neighbour on that side; where it lay in the middle, almost never. So elements are sorted into contexts by the
distance of the number from the border and by how far it may be off; a difference counts as positive when it points to
the nearer neighbour; and each context has numbers of its own.

    number      groups, G: contexts in which surprises are about as frequent share one group
    fixed       the group of each context, two in a byte, the lower half first; of 8 contexts or, with a lattice, of 40
    for each group:
    number      elements
    numbers     for them, in order
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import Numbers, read_numbers, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.sets import set_bits
from deltaic.weights.errors import BadDelta

Small = npt.NDArray[np.int8]
Contexts = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

STEP = 64
"""Fractions of a level are in 64ths: -32 to 32."""

MAX_GROUPS = 8

_MIDDLES = (1, 2, 3, 5, 9, 17, 25)
"""Bounds of contexts without a lattice: distance from the middle of the level."""
_BORDERS = (1, 2, 3, 5, 8, 12, 20)
"""With a lattice: distance from the border."""
_SPREADS = (2, 4, 7, 13)
_GROUP_BITS = 40.0


def context_count(*, lattice: bool) -> int:
    return (len(_BORDERS) + 1) * (len(_SPREADS) + 1) if lattice else len(_MIDDLES) + 1


def contexts(fraction: Small, spread: Small | None) -> Contexts:
    """The context of each element."""
    found = np.zeros(fraction.shape, np.uint8)
    distance = np.abs(fraction)
    if spread is None:
        for bound in _MIDDLES:
            found += distance >= bound
        return found
    for bound in _BORDERS:
        found += distance <= STEP // 2 - bound
    found *= np.uint8(len(_SPREADS) + 1)
    for bound in _SPREADS:
        found += spread >= bound
    return found


class SurpriseWriter:
    """Takes strips of elements, then writes all of them."""

    def __init__(self, *, lattice: bool) -> None:
        self._contexts = context_count(lattice=lattice)
        self._strips: list[tuple[npt.NDArray[np.int16], Contexts]] = []

    def add(self, difference: Numbers, fraction: Small, spread: Small | None) -> None:
        """A strip, flat: level less prediction, and how near the prediction was."""
        towards = np.where(fraction < 0, -difference, difference).astype(np.int16)
        self._strips.append((towards, contexts(fraction, spread)))

    def write(self, out: PayloadWriter) -> None:
        elements, surprises = np.zeros((2, self._contexts), np.int64)
        for towards, context in self._strips:
            elements += np.bincount(context, minlength=self._contexts)
            surprises += np.bincount(context[np.flatnonzero(towards)], minlength=self._contexts)
        groups = group_contexts(elements.tolist(), surprises.tolist())
        out.number(int(groups.max()) + 1)
        out.fixed((groups[::2] | groups[1::2] << np.uint8(4)).tobytes())
        ordered = [self._grouped(towards, groups[context]) for towards, context in self._strips]
        for group in range(int(groups.max()) + 1):
            whole = np.concatenate([strip[group] for strip in ordered]).astype(np.int32)
            out.number(len(whole))
            write_numbers(out, whole)

    @staticmethod
    def _grouped(towards: npt.NDArray[np.int16], group: Contexts) -> list[npt.NDArray[np.int16]]:
        return [towards[group == one] for one in range(MAX_GROUPS)]


def group_contexts(elements: list[int], surprises: list[int]) -> npt.NDArray[np.uint8]:
    """The group of each context: as many groups as pay for themselves, the rarest surprises in group 0."""
    used = sorted(
        (each for each in range(len(elements)) if elements[each]), key=lambda one: surprises[one] / elements[one]
    )
    runs = [([one], elements[one], surprises[one]) for one in used] or [([0], 0, 0)]
    while len(runs) > 1:
        gains = [
            _bits(*left[1:]) + _bits(*right[1:]) - _bits(left[1] + right[1], left[2] + right[2])
            for left, right in pairwise(runs)
        ]
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] < 0 and len(runs) <= MAX_GROUPS:
            break
        left, right = runs[best : best + 2]
        runs[best : best + 2] = [(left[0] + right[0], left[1] + right[1], left[2] + right[2])]
    groups = np.zeros(len(elements), np.uint8)
    for number, (members, _, _) in enumerate(runs):
        groups[members] = number
    return groups


def _bits(elements: int, surprises: int) -> float:
    """About what a group costs."""
    return _GROUP_BITS + set_bits(surprises, elements) if surprises else 8.0


class SurpriseReader:
    """Gives back, strip by strip, where elements differ from their prediction and by how much."""

    def __init__(self, payload: PayloadReader, elements: int, *, lattice: bool) -> None:
        """Raises BadDelta. `elements` bounds what may be allocated."""
        count = payload.number(MAX_GROUPS)
        packed = np.frombuffer(payload.fixed(context_count(lattice=lattice) // 2), np.uint8)
        self._groups = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], 1).reshape(-1)
        if count < 1 or int(self._groups.max()) >= count:
            raise BadDelta("a context in a group that is not there")
        self._numbers: dict[int, tuple[int, Places | None, Numbers]] = {}
        for group in range(count):
            members = payload.number(elements)
            places, values = read_numbers(payload, members)
            if len(values):
                self._numbers[group] = (members, places, values)
            elements -= members
        self._passed = dict.fromkeys(self._numbers, 0)

    def strip(self, fraction: Small, spread: Small | None) -> tuple[Places, Numbers]:
        """(places in the strip, level less prediction there). Raises BadDelta."""
        if not self._numbers:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        group = self._groups[contexts(fraction, spread)]
        found = [self._of(one, np.flatnonzero(group == one)) for one in self._numbers]
        places = np.concatenate([each[0] for each in found])
        differences = np.concatenate([each[1] for each in found])
        return places, np.where(fraction[places] < 0, -differences, differences)

    def _of(self, one: int, members: Places) -> tuple[Places, Numbers]:
        count, places, values = self._numbers[one]
        start = self._passed[one]
        end = self._passed[one] = start + len(members)
        if end > count:
            raise BadDelta("a group with fewer numbers than elements")
        if places is None:
            return members, values[start:end]
        first, last = np.searchsorted(places, (start, end))
        return members[places[first:last] - start], values[first:last]
