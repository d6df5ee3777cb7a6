"""Which models make room for another. Pure: sizes, costs and the time come in, names go out.

A model that is kept spares the seconds of the load that its next request would wait for. So a byte is best spent on the
model with the most seconds spared, in expectation, per byte: rate of requests x seconds of a load / bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

from edge.hot.rates import Rates

_SEARCHED = 12
"""Candidates, least worth first, whose sets are compared; more would cost milliseconds and hardly be better."""
_MOST_VICTIMS = 3
"""Victims of one such set; where more are needed, they go in order of their worth."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes in the memory of the machine, and in that of its GPUs."""

    ram: int = 0
    vram: int = 0

    def __add__(self, other: "Room") -> "Room":
        return Room(self.ram + other.ram, self.vram + other.vram)

    def __sub__(self, other: "Room") -> "Room":
        return Room(self.ram - other.ram, self.vram - other.vram)

    @property
    def missing(self) -> bool:
        """Whether there is less than none of either."""
        return self.ram < 0 or self.vram < 0


@dataclass(frozen=True, slots=True)
class Model:
    """One model that is loaded, or is about to be. `load_seconds` is what loading it again would take.

    `since` is the second at which it was loaded.
    """

    name: str
    room: Room
    load_seconds: float
    since: float = 0.0
    pinned: bool = False
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Who makes room, and whether what comes is worth more than who goes. `victims` is None where nobody may."""

    victims: tuple[str, ...] | None
    pays: bool


class HotPolicy(Protocol):
    """Somebody who knows what a loaded model is worth. Told what happens, in the order in which it does."""

    def used(self, name: str, now: float) -> None:
        """A request asked for it, whether it is loaded or not."""
        ...

    def loaded(self, model: Model, now: float) -> None:
        """It has a worker now."""
        ...

    def gone(self, name: str) -> None:
        """It has none any more."""
        ...

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        """Some of `free`, which together have the room that is needed, the first to go first.

        Only called when all of `free` together have it.
        """
        ...

    def pays(self, coming: Model, victims: Sequence[Model], now: float) -> bool:
        """Whether loading it spares more than the absence of the victims costs."""
        ...


def choose(
    policy: HotPolicy, coming: Model, loaded: Sequence[Model], free: Room, now: float, *, residency: float = 0.0
) -> Choice:
    """Who makes room for `coming` where `free` is left of the budget; less than nothing when it is exceeded.

    Nobody who is pinned, leased or has been loaded for less than `residency` seconds is ever chosen.
    """
    rest = free - coming.room
    if not rest.missing:
        return Choice((), pays=policy.pays(coming, (), now))
    needed = Room(max(0, -rest.ram), max(0, -rest.vram))
    candidates = [each for each in may_go(loaded, now, residency) if has_some(each, needed)]
    if (rest + total(candidates)).missing:
        return Choice(None, pays=False)
    chosen = policy.victims(candidates, needed, now)
    by_name = {model.name: model for model in candidates}
    return Choice(chosen, pays=policy.pays(coming, [by_name[name] for name in chosen], now))


def may_go(loaded: Iterable[Model], now: float, residency: float) -> list[Model]:
    """Those that neither a pin nor a lease nor their youth keeps."""
    return [each for each in loaded if not (each.pinned or each.leased) and now - each.since >= residency]


def has_some(model: Model, needed: Room) -> bool:
    """Whether it has any of the kind of memory that is needed."""
    return (needed.ram > 0 and model.room.ram > 0) or (needed.vram > 0 and model.room.vram > 0)


def total(models: Iterable[Model]) -> Room:
    """What all of them take together."""
    ram = vram = 0
    for model in models:
        ram += model.room.ram
        vram += model.room.vram
    return Room(ram, vram)


def in_order(ranked: Iterable[Model], needed: Room) -> list[Model]:
    """The first of `ranked` that together have the room; those that have nothing of what is missing stay."""
    taken: list[Model] = []
    rest = needed
    for model in ranked:
        if rest.ram <= 0 and rest.vram <= 0:
            break
        if has_some(model, rest):
            taken.append(model)
            rest = rest - model.room
    return taken


class LeastExpectedCost:
    """Those go whose absence costs the fewest expected seconds of loading."""

    def __init__(self, rates: Rates) -> None:
        """`rates` is told of every request."""
        self._rates = rates

    def used(self, name: str, now: float) -> None:
        self._rates.record(name, now)

    def loaded(self, model: Model, now: float) -> None:
        """Nothing to remember: what counts is who is asked for."""

    def gone(self, name: str) -> None:
        """It may be asked for again: its rate is kept."""

    def cost(self, model: Model, now: float) -> float:
        """Seconds of loading that its absence costs, in each second."""
        return self._rates.rate(model.name, now) * model.load_seconds

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        costs = {model.name: self.cost(model, now) for model in free}
        ranked = sorted(free, key=lambda model: (costs[model.name] / _useful(model, needed), model.name))
        best = _spared(in_order(ranked, needed), needed, costs)
        least = sum(costs[model.name] for model in best)
        for some in _small_sets(ranked[:_SEARCHED], needed):
            cost = sum(costs[model.name] for model in some)
            if cost < least:
                best, least = list(some), cost
        return tuple(model.name for model in best)

    def pays(self, coming: Model, victims: Sequence[Model], now: float) -> bool:
        return self.cost(coming, now) > sum(self.cost(victim, now) for victim in victims)


def _useful(model: Model, needed: Room) -> float:
    """Bytes of it that are of the kind that is needed; at least one, to divide by."""
    ram = model.room.ram if needed.ram else 0
    vram = model.room.vram if needed.vram else 0
    return float(max(1, ram + vram))


def _enough(models: Sequence[Model], needed: Room) -> bool:
    return not (total(models) - needed).missing


def _spared(chosen: list[Model], needed: Room, costs: dict[str, float]) -> list[Model]:
    """Without those that turn out not to be needed beside the others, the dearest first."""
    for model in sorted(chosen, key=lambda each: -costs[each.name]):
        others = [each for each in chosen if each is not model]
        if _enough(others, needed):
            chosen = others
    return chosen


def _small_sets(ranked: Sequence[Model], needed: Room) -> Iterable[tuple[Model, ...]]:
    """Every set of a few models that has the room: the least worth byte by byte may free far more than is needed."""
    for count in range(1, _MOST_VICTIMS + 1):
        for some in combinations(ranked, count):
            if _enough(some, needed):
                yield some
