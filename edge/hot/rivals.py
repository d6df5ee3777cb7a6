"""The policies that others use, behind the same Protocol: `make bench-hotset` runs them beside ours.

All of them let go in the order of their ranking until there is room, and hold every load worth it.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence

from edge.hot.policy import Model, Room, in_order


class _Rival:
    """What they have in common."""

    def used(self, name: str, now: float) -> None:
        """Some look at this, others do not."""

    def loaded(self, model: Model, now: float) -> None:
        """The same."""

    def gone(self, name: str) -> None:
        """The same."""

    def pays(self, coming: Model, victims: Sequence[Model], now: float) -> bool:
        """None of them asks."""
        return True


class _Ranked(_Rival, ABC):
    """Those whose order does not depend on how much room is needed."""

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        return tuple(model.name for model in in_order(self.ranked(free, now), needed))

    @abstractmethod
    def ranked(self, free: Sequence[Model], now: float) -> list[Model]:
        """All of them, first who goes first."""


class ByteLRU(_Ranked):
    """Least recently used first, until there is room."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}

    def used(self, name: str, now: float) -> None:
        self._used[name] = now

    def ranked(self, free: Sequence[Model], now: float) -> list[Model]:
        return sorted(free, key=lambda model: self._used.get(model.name, model.since))


class CountLRU(ByteLRU):
    """At most so many models, as llama-server counts them: the least recently used go when there are more.

    Where those that stay are too large for the memory all the same, further ones go: a byte budget is hard here.
    """

    def __init__(self, most: int) -> None:
        """`most` models loaded at once."""
        super().__init__()
        self._most = most
        self._here: set[str] = set()

    def loaded(self, model: Model, now: float) -> None:
        self._here.add(model.name)

    def gone(self, name: str) -> None:
        self._here.discard(name)

    @property
    def too_many(self) -> int:
        """How many must go before another one comes, whatever the bytes."""
        return max(0, len(self._here) + 1 - self._most)

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        ranked = self.ranked(free, now)
        count = max(self.too_many, len(in_order(ranked, needed)))
        return tuple(model.name for model in ranked[:count])


class LargestFirst(_Ranked):
    """The largest first, as LocalAI does: most room for one eviction."""

    def ranked(self, free: Sequence[Model], now: float) -> list[Model]:
        return sorted(free, key=lambda model: (-(model.room.ram + model.room.vram), model.name))


class GDSF(_Ranked):
    """GreedyDual-Size-Frequency (Cherkasova 1998): age of the cache + requests x cost / bytes, smallest first."""

    def __init__(self) -> None:
        self._age = 0.0
        self._requests: dict[str, int] = {}
        self._age_at_use: dict[str, float] = {}

    def used(self, name: str, now: float) -> None:
        self._requests[name] = self._requests.get(name, 0) + 1
        self._age_at_use[name] = self._age

    def gone(self, name: str) -> None:
        self._requests.pop(name, None)

    def ranked(self, free: Sequence[Model], now: float) -> list[Model]:
        return sorted(free, key=self._priority)

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        going = in_order(self.ranked(free, now), needed)
        self._age = max([self._age, *map(self._priority, going)])
        return tuple(model.name for model in going)

    def _priority(self, model: Model) -> float:
        size = max(1, model.room.ram + model.room.vram)
        requests = self._requests.get(model.name, 1)
        return self._age_at_use.get(model.name, 0.0) + requests * model.load_seconds / size * (1 << 30)


class Sieve(_Rival):
    """SIEVE (Zhang and others, 2024): a hand goes from the oldest to the newest and spares, once, who was used."""

    def __init__(self) -> None:
        self._queue: OrderedDict[str, bool] = OrderedDict()
        """Oldest first; whether it was used since the hand passed."""
        self._hand: str | None = None

    def used(self, name: str, now: float) -> None:
        if name in self._queue:
            self._queue[name] = True

    def loaded(self, model: Model, now: float) -> None:
        self._queue.setdefault(model.name, False)

    def gone(self, name: str) -> None:
        if name == self._hand:
            self._hand = self._after(name)
        self._queue.pop(name, None)

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        by_name = {model.name: model for model in free}
        going: list[Model] = []
        at = self._hand if self._hand in self._queue else next(iter(self._queue), None)
        passes = 2 * len(self._queue) + 1  # once to clear what was used, once to find who was not
        while at is not None and passes and _lacks(going, needed):
            passes -= 1
            following = self._after(at) or next(iter(self._queue))
            if at in by_name and by_name[at] not in going:
                if self._queue[at]:
                    self._queue[at] = False
                else:
                    going.append(by_name[at])
            at = following
        self._hand = at
        if _lacks(going, needed):  # those that it was not told of
            rest = [model for model in free if model not in going]
            going = [*going, *rest]
        return tuple(model.name for model in going)

    def _after(self, name: str) -> str | None:
        names = list(self._queue)
        place = names.index(name) + 1
        return names[place] if place < len(names) else None


def _lacks(going: Sequence[Model], needed: Room) -> bool:
    ram = sum(model.room.ram for model in going)
    vram = sum(model.room.vram for model in going)
    return ram < needed.ram or vram < needed.vram
