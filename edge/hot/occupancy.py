"""What is loaded and what is coming, in bytes and as the policy sees it. Nothing here awaits."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from deltaic.engine.host import Served
from deltaic.names import RevisionName
from edge.hot.load_costs import LoadCosts, Tier
from edge.hot.policy import Model, Room, total


class Occupancy:
    """Leases, reservations and sizes. A lease is counted before anything is awaited."""

    def __init__(
        self,
        serving: Callable[[], list[Served]],
        costs: LoadCosts,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`serving` says what has a worker; `clock` measures, `wall` is the time of day that rates know. Seconds."""
        self._serving, self._costs = serving, costs
        self._clock, self._wall = clock, wall
        self._needs: dict[RevisionName, Room] = {}
        self._sizes: dict[RevisionName, int] = {}
        self._since: dict[RevisionName, float] = {}
        self._reserved: dict[RevisionName, Room] = {}
        self._waiting: dict[RevisionName, set[object]] = {}
        self.leases: Counter[RevisionName] = Counter()
        """Requests that use, or wait for, a revision."""

    @contextmanager
    def waiting(self, revision: RevisionName) -> Iterator[None]:
        """A request that is counted among the leases waits for a load: what is loaded now it does not use."""
        token = object()
        self._waiting.setdefault(revision, set()).add(token)
        try:
            yield
        finally:
            if (waiting := self._waiting.get(revision)) is not None:
                waiting.discard(token)
                if not waiting:
                    del self._waiting[revision]

    def loaded(self, revision: RevisionName) -> None:
        """It is loaded: whoever waited for it uses it from this moment."""
        self._waiting.pop(revision, None)
        self._since.setdefault(revision, self._clock())

    def gone(self, revision: RevisionName) -> None:
        self._since.pop(revision, None)

    def waiters(self, revision: RevisionName) -> int:
        """Requests that wait for it to be loaded."""
        return len(self._waiting.get(revision, ()))

    def in_use(self, revision: RevisionName) -> bool:
        return self.leases[revision] > self.waiters(revision)

    def waited_for(self) -> bool:
        """Whether any request waits for a load."""
        return bool(self._waiting)

    @contextmanager
    def reserved(self, revision: RevisionName, need: Room, size: int) -> Iterator[None]:
        """Count the room of a model that is about to be loaded, and remember it. `size` is that of its file."""
        self._needs[revision], self._sizes[revision] = need, size
        self._reserved[revision] = need
        try:
            yield
        finally:
            self._reserved.pop(revision, None)
            self._forget_unneeded()

    def coming(self, revision: RevisionName) -> Model:
        """What is reserved, as the policy sees it; it takes nothing where it has a worker under another key."""
        need = Room() if revision in self._measured() else self._reserved.get(revision, Room())
        return self.absent(revision, need, self._sizes.get(revision, need.ram))

    def others_come(self, revision: RevisionName) -> bool:
        """Whether others are being loaded, which may be victims later."""
        return any(other != revision for other in self._reserved)

    def taken(self, *, but: RevisionName | None = None) -> Room:
        """By what is loaded, and by what is coming `but` for one. Keys that share a worker count once.

        A worker counts with what it was admitted with, or with what it has where that is more: caches fill up later.
        """
        measured = self._measured()
        coming = [room for name, room in self._reserved.items() if name not in measured and name != but]
        return total(self._model(name, room) for name, room in measured.items()) + _sum(coming)

    def models(self, revisions: Iterable[RevisionName], pinned: Iterable[RevisionName]) -> list[Model]:
        """These, which are loaded, as the policy sees them."""
        measured, kept = self._measured(), set(pinned)
        return [
            self._model(each, measured.get(each, Room()), pinned=each in kept, leased=self.in_use(each))
            for each in dict.fromkeys(revisions)
        ]

    def absent(self, revision: RevisionName, need: Room, size: int) -> Model:
        """One that is not loaded."""
        return Model(str(revision), need, self._costs.to_return(str(revision), size, Tier.DISK))

    def _model(self, name: RevisionName, measured: Room, *, pinned: bool = False, leased: bool = False) -> Model:
        need = self._needs.get(name, Room())
        room = Room(max(measured.ram, need.ram), max(measured.vram, need.vram))
        seconds = self._costs.to_return(str(name), self._sizes.get(name, room.ram), Tier.DISK)
        # In the time that rates know, which may be set; the age is measured by a clock that is not.
        since = self._wall() - (self._clock() - self._since.get(name, 0.0))
        return Model(str(name), room, seconds, since, pinned, leased)

    def _measured(self) -> dict[RevisionName, Room]:
        return {served.revision: Room(served.memory_bytes) for served in self._serving()}

    def _forget_unneeded(self) -> None:
        keep = {*self._measured(), *self._reserved}
        self._needs = {name: room for name, room in self._needs.items() if name in keep}
        self._sizes = {name: size for name, size in self._sizes.items() if name in keep}


def _sum(rooms: Iterable[Room]) -> Room:
    whole = Room()
    for room in rooms:
        whole = whole + room
    return whole
