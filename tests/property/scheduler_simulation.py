"""A worker without llama.cpp: slots that hold tokens, a clock that counts, and a language model that is a hash."""

import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from deltaic.engine.errors import DeadlineTooShort, QueueFull
from deltaic.engine.scheduling.memory import Memory
from deltaic.engine.scheduling.moves import Clear, Drop, Move, Place, Save
from deltaic.engine.scheduling.pace import Pace
from deltaic.engine.scheduling.request import Request
from deltaic.engine.scheduling.scheduler import Limits, Scheduler, Step

TOKEN_BYTES = 10
END = 0


def next_token(tokens: list[int], ends: int) -> int:
    """What follows a text: always the same, and every `ends`-th time the end."""
    value = zlib.crc32(repr(tokens).encode())
    return END if ends and value % ends == 0 else 1 + value % 5


def alone(request: Request, ends: int) -> list[int]:
    """The text of a request that nobody disturbs."""
    tokens = list(request.prompt)
    while len(tokens) - len(request.prompt) < request.budget:
        tokens.append(next_token(tokens, ends))
        if tokens[-1] == END:
            break
    return tokens


@dataclass
class Simulation:
    """Runs a scheduler and checks every move and step against what slots really hold."""

    limits: Limits
    store_bytes: int = 0
    ends: int = 0
    prefill_seconds: float = 0.002
    decode_seconds: float = 0.01
    scheduler: Scheduler = field(init=False)
    now: float = 0.0
    slots: dict[int, list[int]] = field(default_factory=dict)
    store: dict[int, list[int]] = field(default_factory=dict)
    running: dict[Hashable, Request] = field(default_factory=dict)
    done: dict[Hashable, list[int]] = field(default_factory=dict)
    refused: list[Hashable] = field(default_factory=list)
    retries: list[int] = field(default_factory=list)
    late: list[Hashable] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    steps: list[tuple[float, int, int]] = field(default_factory=list)
    on_done: Callable[[Request], None] = lambda _: None

    def __post_init__(self) -> None:
        memory = Memory(self.limits.slots, self.store_bytes, TOKEN_BYTES)
        self.scheduler = Scheduler(self.limits, memory, Pace())
        self.slots = {slot: [] for slot in range(self.limits.slots)}

    def add(self, request: Request) -> bool:
        try:
            self.scheduler.add([request], self.now)
        except (QueueFull, DeadlineTooShort) as error:
            self.retries.append(int(error.metadata["retry_after_ms"]))
            self.refused.append(request.id)
            return False
        self.running[request.id] = request
        return True

    def cancel(self, identifier: Hashable) -> None:
        self.do(self.scheduler.remove(identifier))
        self.running.pop(identifier, None)

    def turn(self) -> Step:
        """One turn of the executor's loop."""
        for identifier in self.scheduler.expired(self.now):
            self.late.append(identifier)
            self.cancel(identifier)
        self.do(self.scheduler.admit(self.now))
        step = self.scheduler.schedule()
        self.check(step)
        decoding, prefilled = (0, step.tokens) if step.reading else (step.tokens, 0)
        seconds = self.decode_seconds * ((decoding > 0) + 0.1 * decoding) + self.prefill_seconds * prefilled
        sampled = {}
        for feed in step.feeds:
            self.slots[feed.slot] += feed.tokens
            tenant = self.running[feed.request].scope.tenant
            self.served[tenant] = self.served.get(tenant, 0) + len(feed.tokens)
            if feed.sample:
                sampled[feed.request] = next_token(self.slots[feed.slot], self.ends)
        self.now += seconds if step.feeds else 0.001
        if step.feeds:
            self.steps.append((seconds, decoding, prefilled))
        self.scheduler.update(step, sampled, seconds)
        for identifier, token in sampled.items():
            request = self.running[identifier]
            if token == END or not request.left:
                self.scheduler.finish(identifier)
                self.done[identifier] = list(request.tokens)
                del self.running[identifier]
                self.on_done(request)
        return step

    def run(self, turns: int = 100_000) -> None:
        for _ in range(turns):
            if self.scheduler.idle:
                return
            self.turn()
        raise AssertionError(f"{self.scheduler.waiting} wait and {self.scheduler.running} run after {turns} turns")

    def do(self, moves: list[Move]) -> None:
        for move in moves:
            match move:
                case Save(kept, slot):
                    self.store[kept] = list(self.slots[slot])
                    self.scheduler.memory.sized(kept, TOKEN_BYTES * len(self.slots[slot]))
                case Drop(kept):
                    self.store.pop(kept)
                case Clear(slot):
                    self.slots[slot] = []
                case Place():
                    self.place(move)
            assert sum(map(len, self.store.values())) * TOKEN_BYTES <= self.store_bytes

    def place(self, place: Place) -> None:
        request = self.running[place.request]
        held = self.slots[place.slot]
        if place.kept is not None:
            held = self.store[place.kept]
        elif place.source is not None:
            assert place.source != place.slot
            held = self.slots[place.source]
        self.slots[place.slot] = held[: place.tokens]
        assert self.slots[place.slot] == request.tokens[: place.tokens], "somebody else's text"
        assert place.tokens < len(request.tokens), "nothing is left to read"
        self.scheduler.placed(place.request, place.tokens)

    def check(self, step: Step) -> None:
        assert step.tokens <= self.limits.batch
        assert step.reading or all(feed.sample and len(feed.tokens) == 1 for feed in step.feeds)
        assert self.scheduler.running <= self.limits.slots
        assert len({feed.slot for feed in step.feeds}) == len(step.feeds)
        assert step.feeds or not self.scheduler.running, "somebody runs and nothing is done"
        for feed in step.feeds:
            request = self.running[feed.request]
            assert request.scope.adapters == step.adapters
            assert feed.position == len(self.slots[feed.slot]) == request.fed
            assert list(feed.tokens) == request.tokens[request.fed : request.fed + len(feed.tokens)]
            assert feed.sample == (feed.position + len(feed.tokens) == len(request.tokens))
