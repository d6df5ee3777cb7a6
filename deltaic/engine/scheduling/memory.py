"""What the slots and the store hold, and where a request finds most of its prompt.

A slot keeps its text after an answer, and the next request that begins with it goes on there. Before a slot's text is
lost to another, its state is copied to the store, which has a budget in bytes and forgets what was not used for
longest. States of parked requests are in the same store; they are forgotten last.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from deltaic.engine.scheduling.moves import Clear, Drop, Move, Place, Save
from deltaic.engine.scheduling.prefixes import Held, Prefixes
from deltaic.engine.scheduling.request import Request

WORTH_KEEPING = 48
"""Tokens that are worth a place in the store, and that somebody waits for when another reads them just now."""
WORTH_COPYING = 16
"""Tokens: reading fewer again is not worth a copy from elsewhere."""
_MOST_COPIED = 40
"""Times what is needed: a state is copied whole, so a short beginning of a long text costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the beginning of a prompt is: `tokens` of it, and whose."""

    tokens: int = 0
    held: Held | None = None


@dataclass(slots=True)
class Memory:
    """`token_bytes` is what a token's state takes in the store, `store_bytes` the budget; 0 keeps nothing there."""

    slots: int
    store_bytes: int
    token_bytes: int
    reuse: bool = True
    _texts: Prefixes = field(default_factory=Prefixes)
    _in_slot: dict[int, Held] = field(default_factory=dict)
    _idle: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    _stored: "OrderedDict[int, Held]" = field(default_factory=OrderedDict)
    _parked: dict[int, int] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _numbers: int = 0

    def __post_init__(self) -> None:
        self._idle.update((slot, None) for slot in range(self.slots))

    @property
    def free(self) -> int:
        """Slots without a request."""
        return len(self._idle)

    @property
    def used_bytes(self) -> int:
        return sum(self._sizes.values())

    @property
    def tokens(self) -> int:
        """Tokens whose state is in slots."""
        return sum(held.ready for held in self._in_slot.values())

    # ---- where a prompt is --------------------------------------------------------------------------------------

    def nearest(self, request: Request) -> tuple[Origin, Origin, int]:
        """The best idle slot, the best other holder, and the most that another request will have read before long.

        A prompt's last token is always read again: what comes after it is what is asked for.
        """
        idle = other = Origin()
        coming = 0
        if not self.reuse:
            return idle, other, coming
        limit = len(request.tokens) - 1
        for shared, held in self._texts.matches(request.scope, request.tokens):
            length = min(shared, held.ready, limit)
            if held.slot is not None and held.slot in self._idle:
                idle = max(idle, Origin(length, held), key=_by_length_and_slot)
            else:
                other = max(other, Origin(length, held), key=lambda one: one.tokens)
                if held.slot is not None:
                    coming = max(coming, min(shared, limit))
            if shared <= min(idle.tokens, other.tokens):
                break
        return idle, other, coming

    # ---- taking and leaving a slot ------------------------------------------------------------------------------

    def take(self, request: Request, idle: Origin, other: Origin) -> list[Move]:
        """Give the request the slot that serves it best; `request.slot` and what is to be done for it."""
        moves: list[Move] = []
        if request.parked is not None:
            slot, place = self._resume(request, moves)
        elif idle.held is not None and idle.tokens > 0 and not _worth_more(other, idle.tokens):
            assert idle.held.slot is not None
            slot = idle.held.slot
            place = Place(request.id, slot, idle.tokens)
        else:
            slot, place = self._bring(request, other)
        if request.parked is None:
            stays = place.tokens if place.kept is None and place.source is None else 0
            moves[:0] = self._rescue(slot, stays, sparing=place.kept)
        self._forget_slot(slot)
        del self._idle[slot]
        request.slot, request.parked = slot, None
        self._hold(Held(request.scope, tuple(request.tokens), slot=slot))
        return moves if place in moves else [*moves, place]

    def grown(self, request: Request) -> None:
        """The request has read more of its text."""
        self._in_slot[request.slot].ready = min(request.fed, len(self._in_slot[request.slot].tokens))

    def leave(self, request: Request) -> None:
        """The request ends: its slot is free and keeps the text that it has read."""
        slot, request.slot = request.slot, -1
        self._forget_slot(slot)
        self._idle[slot] = None
        if request.fed and self.reuse:
            self._hold(Held(request.scope, tuple(request.tokens[: request.fed]), slot=slot, ready=request.fed))

    def park(self, request: Request) -> list[Move]:
        """Set the request aside, with its state where the store has room for it; without, it reads its text again."""
        slot = request.slot
        moves: list[Move] = []
        if request.fed >= WORTH_KEEPING and self._make_room(request.fed, moves):
            request.parked = self._number(request.fed)
            self._parked[request.parked] = request.fed
            moves.append(Save(request.parked, slot))
        self._forget_slot(slot)
        self._idle[slot] = None
        self._idle.move_to_end(slot, last=False)
        request.slot, request.fed = -1, 0
        return [*moves, Clear(slot)]

    def abandon(self, request: Request) -> list[Move]:
        """Forget the state of a parked request that will not go on."""
        if request.parked is None:
            return []
        kept, request.parked = request.parked, None
        return [self._drop(kept)]

    def sized(self, kept: int, size: int) -> None:
        """A stored state takes `size` bytes; 0 means that it could not be stored."""
        if kept in self._sizes:
            self._sizes[kept] = size

    def known(self) -> list[Held]:
        """Texts that a later worker could use, the ones used last first: in idle slots, then in the store."""
        idle = [self._in_slot[slot] for slot in reversed(self._idle) if slot in self._in_slot]
        return [held for held in idle if held.ready >= WORTH_KEEPING] + list(reversed(self._stored.values()))

    def adopt(self, held: Held, size: int) -> int:
        """Take in a stored text from before; its number."""
        self._numbers += 1
        held.kept, self._sizes[self._numbers] = self._numbers, size
        self._stored[self._numbers] = held
        self._texts.add(held)
        return self._numbers

    # ---- inside -------------------------------------------------------------------------------------------------

    def _bring(self, request: Request, other: Origin) -> tuple[int, Place]:
        """The slot that is missed least, and the prompt's beginning in it from wherever it is."""
        slot = self._least_missed()
        if other.held is None or not _worth_more(other, 0):
            return slot, Place(request.id, slot)
        if other.held.kept is not None:
            self._stored.move_to_end(other.held.kept)
            return slot, Place(request.id, slot, other.tokens, kept=other.held.kept)
        return slot, Place(request.id, slot, other.tokens, source=other.held.slot)

    def _least_missed(self) -> int:
        """The first slot that holds nothing, so that those in use lie side by side; else the longest unused."""
        return min((slot for slot in self._idle if slot not in self._in_slot), default=next(iter(self._idle)))

    def _resume(self, request: Request, moves: list[Move]) -> tuple[int, Place]:
        kept = request.parked
        assert kept is not None
        slot = self._least_missed()
        moves += self._rescue(slot, 0)
        place = Place(request.id, slot, self._parked[kept], kept=kept)
        moves += [place, self._drop(kept)]
        return slot, place

    def _rescue(self, slot: int, keep: int, sparing: int | None = None) -> list[Move]:
        """Store the text of an idle slot of which only `keep` tokens will stay, unless it is at hand elsewhere.

        What is stored already and begins this text is covered by it; `sparing` is about to be used.
        """
        held = self._in_slot.get(slot)
        if held is None or held.ready - keep < WORTH_KEEPING or not self.reuse:
            return []
        covered = []
        for shared, each in self._texts.matches(held.scope, held.tokens):
            if each is not held and min(shared, each.ready) > held.ready - WORTH_KEEPING:
                return []
            if each.kept is not None and each.kept != sparing and shared >= each.ready:
                covered.append(each.kept)
        moves: list[Move] = [self._drop(kept) for kept in covered]
        if not self._make_room(held.ready, moves, sparing):
            return moves
        number = self._number(held.ready)
        copy = Held(held.scope, held.tokens[: held.ready], kept=number, ready=held.ready)
        self._stored[number] = copy
        self._texts.add(copy)
        return [*moves, Save(number, slot)]

    def _make_room(self, tokens: int, moves: list[Move], sparing: int | None = None) -> bool:
        """Forget stored texts, the longest unused first, until `tokens` more fit."""
        needed = tokens * self.token_bytes
        parked = sum(self._sizes[kept] for kept in self._parked)
        if needed > self.store_bytes - parked:
            return False
        while self.used_bytes + needed > self.store_bytes:
            victim = next(iter(self._stored))
            if victim == sparing:
                return False
            moves.append(self._drop(victim))
        return True

    def _number(self, tokens: int) -> int:
        self._numbers += 1
        self._sizes[self._numbers] = tokens * self.token_bytes
        return self._numbers

    def _drop(self, kept: int) -> Move:
        if kept in self._stored:
            self._texts.remove(self._stored.pop(kept))
        self._parked.pop(kept, None)
        self._sizes.pop(kept, None)
        return Drop(kept)

    def _hold(self, held: Held) -> None:
        assert held.slot is not None
        self._in_slot[held.slot] = held
        self._texts.add(held)

    def _forget_slot(self, slot: int) -> None:
        held = self._in_slot.pop(slot, None)
        if held is not None:
            self._texts.remove(held)


def _by_length_and_slot(origin: Origin) -> tuple[int, int]:
    """The longest; of equals, the first slot."""
    slot = origin.held.slot if origin.held is not None else None
    return origin.tokens, -(slot or 0)


def _worth_more(other: Origin, tokens: int) -> bool:
    """Whether a copy from elsewhere saves more than the `tokens` that a slot has already."""
    if other.held is None or other.tokens - tokens < WORTH_COPYING:
        return False
    return other.held.ready <= _MOST_COPIED * (other.tokens - tokens)
