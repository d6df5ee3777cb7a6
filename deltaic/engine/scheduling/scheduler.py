"""The scheduler: who has a slot, and what each of them feeds into the next decode call.

Each turn: `admit` gives free slots to those who wait, `schedule` makes a step, the executor runs it, `update` takes
what came out. A step is one decode call, either of answers, one token each, or of prompts: short ones whole, since they
are soon over; long ones as many tokens at a time as `Pace` allows between two tokens of the answers. All sequences of a
step use the same adapters. Answers and prompts take turns, and so do sets of adapters.

Answers and prompts are not mixed in a call, because attention goes over as many places as the longest sequence of a
call has; because each then tells what it takes; and because who comes while answers are computed is read right after
them, without waiting for another token of theirs.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from deltaic.engine.errors import DeadlineTooShort, QueueFull
from deltaic.engine.scheduling.memory import WORTH_KEEPING, Memory
from deltaic.engine.scheduling.moves import Move
from deltaic.engine.scheduling.pace import Pace
from deltaic.engine.scheduling.queueing import Waiting
from deltaic.engine.scheduling.request import Adapters, Request
from deltaic.engine.scheduling.shares import Shares

_LEAST_RUN = 32
"""Tokens that a request is served before it may be set aside again."""

_HOPELESS = 0.7
"""A deadline is refused when even this part of the time that is expected goes beyond it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler may use. Tokens, but for `queue` (requests) and `patience` (seconds)."""

    slots: int
    queue: int
    batch: int
    short: int
    patience: float = 20.0
    share_gap: float = 4096.0


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of one request in one step. `sample` says that a token is drawn after the last of them."""

    request: Hashable
    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One decode call, `reading` prompts or going on with answers; no feeds means that there is nothing to do."""

    feeds: tuple[Feed, ...] = ()
    adapters: Adapters = ()
    reading: bool = False

    @property
    def tokens(self) -> int:
        return sum(len(feed.tokens) for feed in self.feeds)


@dataclass(slots=True)
class Scheduler:
    """Requests waiting, running and parked; a parked one waits with its state set aside."""

    limits: Limits
    memory: Memory
    pace: Pace = field(default_factory=Pace)
    shares: Shares = field(default_factory=Shares)
    preemptions: int = 0
    _waiting: Waiting = field(init=False)
    _running: dict[Hashable, Request] = field(default_factory=dict)
    _turns: dict[tuple[Adapters, bool], int] = field(default_factory=dict)
    _turn: int = 0
    _joining: set[Hashable] = field(default_factory=set)
    """Whose long prompts the last step has come to the end of. They let the others' answers go first: with them a call
    takes longer, and the gap of the others has the end of the prompt in it already."""

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.limits.patience)

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
    def parked(self) -> int:
        """Those of the waiting that have run before."""
        return sum(1 for request in self._waiting if request.generated)

    # ---- requests come and go -----------------------------------------------------------------------------------

    def add(self, requests: Sequence[Request], now: float) -> None:
        """Take requests in, all or none. Raises QueueFull, DeadlineTooShort; both say when to try again."""
        wait = self._expected_wait()
        again = {"retry_after_ms": str(max(int(self._expected_turn() * 1000), 100))}
        if len(self._waiting) + len(requests) > self.limits.queue + self.memory.free:
            raise QueueFull(
                f"{len(self._waiting)} requests already wait for one of {self.limits.slots} slots",
                hint=f"try again in {int(again['retry_after_ms']) / 1000:.1f} s, or raise engine.queue",
                queue=str(self.limits.queue),
                **again,
            )
        expected = wait + self._own_seconds(requests[0])
        if self.pace.sure and now + _HOPELESS * expected > requests[0].deadline:
            raise DeadlineTooShort(
                f"the answer would take about {expected:.1f} s, "
                f"the deadline is in {max(requests[0].deadline - now, 0):.1f} s",
                hint="give more time, ask for fewer tokens, or try again when there is less to do",
                **again,
            )
        for request in requests:
            self.shares.join(request.scope.tenant)
            self._waiting.add(request)

    def remove(self, identifier: Hashable) -> list[Move]:
        """Forget a request, wherever it is; its slot is free at once. Nothing when it is not here."""
        request = self._running.pop(identifier, None)
        moves: list[Move] = []
        if request is not None:
            self.memory.leave(request)
        elif (request := self._waiting.remove(identifier)) is not None:
            moves = self.memory.abandon(request)
        if request is not None:
            self.shares.leave(request.scope.tenant)
        return moves

    def finish(self, identifier: Hashable) -> None:
        """A running request is complete."""
        self.pace.finished(self._running[identifier].generated)
        self.remove(identifier)

    def expired(self, now: float) -> list[Hashable]:
        """Requests whose deadline is not after `now`; remove them."""
        return [each.id for each in (*self._running.values(), *self._waiting) if each.deadline <= now]

    # ---- slots --------------------------------------------------------------------------------------------------

    def admit(self, now: float) -> list[Move]:
        """Give slots to those who wait, taking them from others where that is due; what is to be done for it."""
        moves: list[Move] = []
        while self._waiting:
            request = self._next(now)
            if request is None:
                break
            if not self.memory.free:
                victim = self._victim(request)
                if victim is None:
                    break
                moves += self._park(victim)
            moves += self._take(request, now)
        return moves

    def placed(self, identifier: Hashable, tokens: int) -> None:
        """What a Place brought: the state of the request's first `tokens` tokens is in its slot."""
        request = self._running[identifier]
        request.fed = tokens
        request.reads_long = request.unread > self.limits.short
        if not request.generated:
            request.cached = tokens
        self.memory.grown(request)
        if not request.charged:
            request.charged = True
            self.shares.charge(request.scope.tenant, prompt=request.unread - 1)

    def request(self, identifier: Hashable) -> Request:
        """A running request."""
        return self._running[identifier]

    def _next(self, now: float) -> Request | None:
        """Who is first in line, but for those whose prompt's beginning somebody is reading just now."""
        for request in self._waiting.in_order(self.shares, now):
            idle, other, coming = self.memory.nearest(request)
            if request.parked is not None or coming < max(idle.tokens, other.tokens) + WORTH_KEEPING:
                return request
        return None

    def _take(self, request: Request, now: float) -> list[Move]:
        self._waiting.take(request, now)
        idle, other, _ = self.memory.nearest(request)
        moves = self.memory.take(request, idle, other)
        request.since_admitted = 0
        self._running[request.id] = request
        return moves

    def _park(self, victim: Request) -> list[Move]:
        del self._running[victim.id]
        moves = self.memory.park(victim)
        self._waiting.add(victim)
        self.preemptions += 1
        return moves

    def _victim(self, request: Request) -> Request | None:
        """Whom to set aside for `request`: a lower class, or a tenant that was served far more than its share."""
        served = self.shares.served(request.scope.tenant) + self.limits.share_gap
        holds = Counter(each.scope.tenant for each in self._running.values())
        share = self.limits.slots / max(self.shares.tenants, 1)
        able = [
            each
            for each in self._running.values()
            if each.since_admitted >= _LEAST_RUN
            and (
                each.priority < request.priority
                or (
                    each.priority == request.priority
                    and self.shares.served(each.scope.tenant) > served
                    and holds[each.scope.tenant] > share
                )
            )
        ]
        return max(
            able,
            key=lambda each: (-each.priority, self.shares.served(each.scope.tenant), each.arrived),
            default=None,
        )

    # ---- steps --------------------------------------------------------------------------------------------------

    def schedule(self) -> Step:
        """The next step."""
        if not self._running:
            return Step()
        adapters, reading = turn = self._next_turn()
        members = [each for each in self._running.values() if _turn_of(each) == turn]
        # By slot: llama.cpp computes neighbouring streams together, and begins anew wherever their order is broken.
        those = sorted([each for each in members if each.id not in self._joining] or members, key=lambda one: one.slot)
        counts = self._shares_of_readers(those) if reading else {each.id: 1 for each in those}
        return Step(tuple(_feed(each, counts[each.id]) for each in those if counts.get(each.id)), adapters, reading)

    def update(self, step: Step, sampled: Mapping[Hashable, int], seconds: float) -> None:
        """Take what `step` brought: the token of every request that sampled, and how long it took."""
        if step.reading:
            self.pace.observe_prompts(step.tokens, seconds)
        elif step.feeds:
            self.pace.observe_answers(len(step.feeds), seconds)
        self._joining.clear()
        for feed in step.feeds:
            request = self._running.get(feed.request)
            if request is None:
                continue
            request.fed += len(feed.tokens)
            request.since_admitted += len(feed.tokens)
            if feed.sample:
                request.tokens.append(sampled[feed.request])
                self.shares.charge(request.scope.tenant, generated=1)
            if step.reading and request.reads_long and request.unread == 1:
                self._joining.add(request.id)
            self.memory.grown(request)

    def _next_turn(self) -> tuple[Adapters, bool]:
        """Adapters of the next step, and whether it reads: what was not done for longest."""
        possible = {_turn_of(each) for each in self._running.values()}
        turn = min(possible, key=lambda one: (self._turns.get(one, 0), one))
        self._turn += 1
        self._turns = {one: last for one, last in self._turns.items() if one in possible} | {turn: self._turn}
        return turn

    def _shares_of_readers(self, readers: list[Request]) -> dict[Hashable, int]:
        """How many prompt tokens each reader feeds.

        Beside running answers, short prompts go first, whole, at most `short` tokens in all; what is left of the pace's
        chunk, at least half of it, goes to the long ones, in the order of arrival.
        """
        decoding = sum(each.unread == 1 for each in self._running.values())
        room = self.limits.batch
        chunk = self.pace.chunk(decoding, room)
        counts: dict[Hashable, int] = {}
        if decoding:
            long = any(each.reads_long for each in readers)
            left = min(max(self.limits.short, chunk), room - (chunk // 2 if long else 0))
            for each in sorted(readers, key=lambda one: one.arrived):
                if not each.reads_long and each.unread <= left:
                    counts[each.id] = each.unread
                    left -= each.unread
            used = sum(counts.values())
            chunk = max(chunk - used, chunk // 2, 1)
            room -= used
        rest = sorted((each for each in readers if each.id not in counts), key=lambda one: one.arrived)
        left = min(chunk, room)
        for each in rest:
            counts[each.id] = min(each.unread, left)
            left -= counts[each.id]
        return counts

    # ---- what to expect -----------------------------------------------------------------------------------------

    def _expected_turn(self) -> float:
        """Seconds until the next slot is free, on average."""
        length = self.pace.expected_length(256)
        return length * self.pace.decode_seconds(self.limits.slots) / self.limits.slots

    def _expected_wait(self) -> float:
        """Seconds until a request that comes now would get a slot."""
        if self.memory.free > len(self._waiting):
            return 0.0
        unread = sum(each.unread for each in (*self._running.values(), *self._waiting))
        return self.pace.prefill_seconds(unread) + (len(self._waiting) + 1) * self._expected_turn()

    def _own_seconds(self, request: Request) -> float:
        length = self.pace.expected_length(request.budget)
        each = self.pace.decode_seconds(min(self.running + 1, self.limits.slots))
        return self.pace.prefill_seconds(len(request.prompt)) + length * each


def _turn_of(request: Request) -> tuple[Adapters, bool]:
    return request.scope.adapters, request.unread > 1


def _feed(request: Request, count: int) -> Feed:
    tokens = tuple(request.tokens[request.fed : request.fed + count])
    return Feed(request.id, request.slot, request.fed, tokens, sample=count == request.unread)
