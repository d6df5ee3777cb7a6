"""Who decodes what in the next step. Pure: no llama.cpp, no clock, no threads; time comes in as an argument.

A step gives a token to every decoding sequence and at most `prefill_chunk` prompt tokens to those that still read their
prompt, shared evenly, beginning with another one each time, so that neither a long prompt nor many of them hold up the
rest. `schedule()` says what to run, the executor runs it, `update()` takes what came out.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deltaic.engine.errors import QueueFull


@dataclass(slots=True)
class Sequence:
    """One request inside the worker: its tokens so far and what it may still use.

    `deadline` is on the caller's clock, in seconds. `budget` counts tokens that may be generated.
    """

    id: int
    prompt: tuple[int, ...]
    budget: int
    deadline: float = float("inf")
    slot: int = -1
    fed: int = 0
    generated: int = 0
    next_token: int = -1

    @property
    def prefilling(self) -> bool:
        return self.fed < len(self.prompt)


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of one sequence in one step. `sample` says that a token is drawn after the last of them."""

    sequence: int
    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One decode call. `cleared` are slots whose memory must be emptied first, even when nothing is fed; `admitted`
    sequences have just got a slot.
    """

    cleared: tuple[int, ...] = ()
    admitted: tuple[int, ...] = ()
    feeds: tuple[Feed, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(len(feed.tokens) for feed in self.feeds)


@dataclass(slots=True)
class Scheduler:
    """Sequences waiting and running. `slots` run at once; `queue` more may wait than there are free slots."""

    slots: int
    prefill_chunk: int
    queue: int
    _waiting: deque[Sequence] = field(default_factory=deque)
    _running: dict[int, Sequence] = field(default_factory=dict)
    _free: list[int] = field(init=False)
    _dirty: list[int] = field(default_factory=list)
    _turn: int = 0

    def __post_init__(self) -> None:
        self._free = list(reversed(range(self.slots)))

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose state the slots of running sequences hold."""
        return sum(each.fed + max(0, each.generated - 1) for each in self._running.values())

    def add(self, sequence: Sequence) -> None:
        """Take a request in. Raises QueueFull."""
        if len(self._waiting) >= self.queue + len(self._free):
            raise QueueFull(
                f"{len(self._waiting)} requests already wait for one of {self.slots} slots",
                hint="try again in a few seconds, or raise engine.queue",
                queue=str(self.queue),
            )
        self._waiting.append(sequence)

    def remove(self, identifier: int) -> bool:
        """Forget a sequence, wherever it is; its slot is free in the next step. False when it is not here."""
        running = self._running.pop(identifier, None)
        if running is not None:
            self._free.append(running.slot)
            self._dirty.append(running.slot)
            return True
        for sequence in self._waiting:
            if sequence.id == identifier:
                self._waiting.remove(sequence)
                return True
        return False

    def expired(self, now: float) -> list[int]:
        """Sequences whose deadline is not after `now`; remove them."""
        return [each.id for each in (*self._running.values(), *self._waiting) if each.deadline <= now]

    def schedule(self) -> Step:
        """The next step: admit who waits, feed who runs. No feeds means that there is nothing to do."""
        admitted = []
        while self._free and self._waiting:
            sequence = self._waiting.popleft()
            sequence.slot = self._free.pop()
            self._running[sequence.id] = sequence
            admitted.append(sequence.id)
        decoding = [_decode(each) for each in self._running.values() if not each.prefilling]
        cleared, self._dirty = tuple(self._dirty), []
        return Step(cleared, tuple(admitted), (*decoding, *self._prefill()))

    def update(self, step: Step, sampled: Mapping[int, int], finished: Iterable[int]) -> None:
        """Take what `step` brought: the token of every sequence that sampled, and which of them have ended."""
        for feed in step.feeds:
            sequence = self._running.get(feed.sequence)
            if sequence is None:
                continue
            if sequence.prefilling:
                sequence.fed += len(feed.tokens)
            if feed.sample:
                sequence.next_token = sampled[feed.sequence]
                sequence.generated += 1
        for identifier in finished:
            self.remove(identifier)

    def _prefill(self) -> list[Feed]:
        """Share one chunk among those that read their prompt; the first in line changes with every step."""
        readers = [each for each in self._running.values() if each.prefilling]
        if not readers:
            return []
        self._turn += 1
        first = self._turn % len(readers)
        readers = (readers[first:] + readers[:first])[: self.prefill_chunk]
        left, feeds = self.prefill_chunk, []
        # Whoever needs less than an even share leaves the rest to the others.
        shares: dict[int, int] = {}
        for rank, each in enumerate(sorted(readers, key=lambda one: len(one.prompt) - one.fed)):
            shares[each.id] = min(len(each.prompt) - each.fed, left // (len(readers) - rank))
            left -= shares[each.id]
        for each in readers:
            share = shares[each.id]
            tokens = each.prompt[each.fed : each.fed + share]
            feeds.append(Feed(each.id, each.slot, each.fed, tokens, sample=each.fed + share == len(each.prompt)))
        return feeds


def _decode(sequence: Sequence) -> Feed:
    """The token drawn last goes in at the position after everything before it."""
    position = len(sequence.prompt) + sequence.generated - 1
    return Feed(sequence.id, sequence.slot, position, (sequence.next_token,), sample=True)
