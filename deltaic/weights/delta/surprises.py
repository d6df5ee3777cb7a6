"""Levels that are not what was predicted, coded in the context of how near the prediction was to being another one.

A predicted level is a number that was rounded. Where that number lay close to the border of its level, the true level
is often the neighbour on that side; where it lay in the middle, almost never. So elements are sorted into contexts by
the distance of the number from the border and by how far it may be off; a difference counts as positive when it points
to the nearer neighbour; and contexts that are about as sure share a group, which has numbers of its own.

    number      groups, G: contexts in which surprises are about as frequent share one group
    fixed       the group of each context, two in a byte, the lower half first; of 8 contexts or, with a lattice, of 40
    numbers     group 0, where surprises are rarest: of ALL elements in order, those of other groups being 0
    for each other group:
    number      elements
    numbers     for them, in order
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.numbers import Numbers, read_numbers, write_sparse_numbers
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
            found += (distance >= bound).view(np.uint8)
        return found
    for bound in _BORDERS:
        found += (distance <= STEP // 2 - bound).view(np.uint8)
    found *= np.uint8(len(_SPREADS) + 1)
    for bound in _SPREADS:
        found += (spread >= bound).view(np.uint8)
    return found


class SurpriseWriter:
    """Takes strips of elements, then writes all of them."""

    def __init__(self, *, lattice: bool) -> None:
        self._contexts = context_count(lattice=lattice)
        self._strips: list[tuple[Contexts, Places, Numbers]] = []

    def add(self, difference: npt.NDArray[np.int16], fraction: Small, spread: Small | None) -> None:
        """A strip, flat: level less prediction, and how near the prediction was."""
        context = contexts(fraction, spread)
        places = np.flatnonzero(difference != 0)
        towards = difference[places].astype(np.int32)
        np.negative(towards, where=fraction[places] < 0, out=towards)
        self._strips.append((context, places, towards))

    def bits(self, times: float) -> float:
        """About how many bits `write` takes for so many times as many elements."""
        elements, surprises = ([int(times * one) for one in counts] for counts in self._counts())
        groups = group_contexts(elements, surprises)
        all_ = np.bincount(groups, weights=elements, minlength=MAX_GROUPS)
        wrong = np.bincount(groups, weights=surprises, minlength=MAX_GROUPS)
        return sum(_bits(int(one), int(other)) for one, other in zip(all_, wrong, strict=True))

    def write(self, out: PayloadWriter) -> None:
        groups = group_contexts(*self._counts())
        count, table = int(groups.max()) + 1, _table(groups)
        out.number(count)
        out.fixed((groups[::2] | groups[1::2] << np.uint8(4)).tobytes())
        runs = [_WrittenRun() for _ in range(count)]
        for context, places, towards in self._strips:
            group = groups[context[places]]
            members = [np.arange(0), *sorted_by_group(context, table, count)]
            for number, run in enumerate(runs):
                mine = group == number
                if number:
                    run.add(len(members[number]), np.searchsorted(members[number], places[mine]), towards[mine])
                else:
                    run.add(len(context), places[mine], towards[mine])
        for number, run in enumerate(runs):
            if number:
                out.number(run.count)
            run.write(out)

    def _counts(self) -> tuple[list[int], list[int]]:
        """For each context its elements, and those of them that surprise."""
        elements, surprises = np.zeros((2, self._contexts), np.int64)
        for context, places, _ in self._strips:
            elements += np.bincount(context, minlength=self._contexts)
            surprises += np.bincount(context[places], minlength=self._contexts)
        return elements.tolist(), surprises.tolist()


class _WrittenRun:
    """The numbers of one group, gathered strip by strip."""

    def __init__(self) -> None:
        self.count = 0
        self._places: list[Places] = []
        self._values: list[Numbers] = []

    def add(self, count: int, places: Places, values: Numbers) -> None:
        self._places.append(places + self.count)
        self._values.append(values)
        self.count += count

    def write(self, out: PayloadWriter) -> None:
        write_sparse_numbers(out, np.concatenate(self._places), np.concatenate(self._values), self.count)


def _table(groups: Contexts) -> bytes:
    return groups.tobytes().ljust(256, b"\0")


def group_contexts(elements: list[int], surprises: list[int]) -> npt.NDArray[np.uint8]:
    """The group of each context: as many groups as pay for themselves, the rarest surprises in group 0."""
    used = sorted(
        (each for each in range(len(elements)) if elements[each]), key=lambda one: surprises[one] / elements[one]
    )
    runs = [_GroupedRun([one], elements[one], surprises[one]) for one in used] or [_GroupedRun([0], 0, 0)]
    gains = [_gain(left, right) for left, right in pairwise(runs)]
    while gains:
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] < 0 and len(runs) <= MAX_GROUPS:
            break
        runs[best : best + 2] = [_joined(*runs[best : best + 2])]
        first = max(best - 1, 0)
        gains[first : best + 2] = [_gain(left, right) for left, right in pairwise(runs[first : best + 2])]
    groups = np.zeros(len(elements), np.uint8)
    for number, run in enumerate(runs):
        groups[run.contexts] = number
    return groups


class _GroupedRun:
    """Contexts that share a group, and about what the group costs."""

    def __init__(self, contexts: list[int], elements: int, surprises: int) -> None:
        self.contexts = contexts
        self.elements = elements
        self.surprises = surprises
        self.bits = _bits(elements, surprises)


def _joined(left: _GroupedRun, right: _GroupedRun) -> _GroupedRun:
    return _GroupedRun(left.contexts + right.contexts, left.elements + right.elements, left.surprises + right.surprises)


def _gain(left: _GroupedRun, right: _GroupedRun) -> float:
    """How many bits are saved when two groups become one."""
    return left.bits + right.bits - _bits(left.elements + right.elements, left.surprises + right.surprises)


def _bits(elements: int, surprises: int) -> float:
    """About what a group costs."""
    return _GROUP_BITS + set_bits(surprises, elements) if surprises else 8.0


class SurpriseReader:
    """Gives back, strip by strip, where elements differ from their prediction and by how much."""

    def __init__(self, payload: PayloadReader, elements: int, *, lattice: bool) -> None:
        """Raises BadDelta. `elements` bounds what may be allocated."""
        count = payload.number(MAX_GROUPS)
        packed = np.frombuffer(payload.fixed(context_count(lattice=lattice) // 2), np.uint8)
        groups = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], 1).reshape(-1)
        if count < 1 or int(groups.max()) >= count:
            raise BadDelta("a context in a group that is not there")
        self._table = _table(groups)
        self._rare = _Run(elements, *read_numbers(payload, elements))
        self._runs: list[_Run] = []
        for _ in range(1, count):
            members = payload.number(elements)
            self._runs.append(_Run(members, *read_numbers(payload, members)))
            elements -= members
        self._hot = any(run.differs for run in self._runs)

    def strip(self, fraction: Small, spread: Small | None) -> tuple[Places, Numbers]:
        """(places in the strip, level less prediction there). Raises BadDelta."""
        places, differences = self._rare.next(len(fraction))
        if self._hot:
            members = sorted_by_group(contexts(fraction, spread), self._table, len(self._runs) + 1)
            found = [(places, differences)]
            for run, mine in zip(self._runs, members, strict=True):
                within, values = run.next(len(mine))
                found.append((mine[within], values))
            places = np.concatenate([each[0] for each in found])
            differences = np.concatenate([each[1] for each in found])
        differences = differences.astype(np.int32)
        return places, np.where(fraction[places] < 0, -differences, differences)


def sorted_by_group(context: Contexts, table: bytes, count: int) -> list[Places]:
    """The places of each group but the first, rising; `table` gives the group of a context."""
    group = np.frombuffer(context.tobytes().translate(table), np.uint8)
    return [np.flatnonzero(group == one) for one in range(1, count)]


class _Run:
    """The numbers of one group, given out from the front."""

    def __init__(self, count: int, places: Places | None, values: Numbers) -> None:
        # Kept for as long as the part is made, so as narrow as they fit.
        self._places = None if places is None else places.astype(np.uint32)
        self._values = values.astype(np.int8) if np.abs(values).max(initial=0) < 128 else values
        self._count = count
        self._passed = 0

    @property
    def differs(self) -> bool:
        return len(self._values) > 0

    def next(self, count: int) -> tuple[Places, Numbers]:
        """Where among the next `count` elements there are surprises, and which. Raises BadDelta."""
        start, self._passed = self._passed, self._passed + count
        if self._passed > self._count:
            raise BadDelta("a group with fewer numbers than elements")
        if self._places is None:
            values = self._values[start : self._passed]
            places = np.flatnonzero(values)
            return places, values[places]
        first, last = np.searchsorted(self._places, (start, self._passed))
        return self._places[first:last].astype(np.int64) - start, self._values[first:last]
