"""States of slots copied out of the context and back: what the scheduler's moves mean in bytes."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from deltaic.engine.scheduling.moves import Clear, Drop, Move, Place, Save
from deltaic.engine.scheduling.prefixes import Held
from deltaic.engine.scheduling.scheduler import Scheduler
from deltaic.engine.worker.context import Context
from deltaic.engine.worker.prefix_files import KnownPrefix


@dataclass(slots=True)
class SlotStates:
    """The store behind `scheduling.memory`: stored states by their number. Belongs to the thread of the context."""

    context: Context
    _kept: dict[int, bytearray] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What all stored states take."""
        return sum(map(len, self._kept.values()))

    def do(self, moves: Iterable[Move], scheduler: Scheduler) -> list[Hashable]:
        """Carry out moves in their order; the requests that got a slot."""
        placed = []
        for move in moves:
            match move:
                case Save(kept, slot):
                    self._kept[kept] = self.context.save(slot)
                    scheduler.memory.sized(kept, len(self._kept[kept]))
                case Drop(kept):
                    self._kept.pop(kept, None)
                case Clear(slot):
                    self.context.keep(slot, 0)
                case Place():
                    scheduler.placed(move.request, self._place(move))
                    placed.append(move.request)
        return placed

    def known(self, scheduler: Scheduler) -> Iterator[KnownPrefix]:
        """Texts with their states, for another life of this worker; those under adapters stay behind."""
        for held in scheduler.memory.known():
            if held.scope.adapters:
                continue
            if held.kept is not None:
                state = self._kept.get(held.kept, bytearray())
            else:
                assert held.slot is not None
                state = self.context.save(held.slot)
            if state:
                yield KnownPrefix(held.scope.tenant, held.tokens[: held.ready], state)

    def adopt(self, prefix: KnownPrefix, scheduler: Scheduler) -> None:
        """Take in a text from an earlier life."""
        held = Held(prefix.scope, prefix.tokens, ready=len(prefix.tokens))
        self._kept[scheduler.memory.adopt(held, len(prefix.state))] = prefix.state

    def _place(self, place: Place) -> int:
        """Bring the state of a prompt's beginning into a slot; how many tokens of it came."""
        if place.kept is not None and not self.context.load(place.slot, self._kept.get(place.kept, bytearray())):
            return self.context.keep(place.slot, 0)
        if place.source is not None and not self.context.load(place.slot, self.context.save(place.source)):
            return self.context.keep(place.slot, 0)
        return self.context.keep(place.slot, place.tokens)
