"""The scheduler alone: who is fed in a step, who waits, who is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deltaic.engine.errors import QueueFull
from deltaic.engine.worker.scheduler import Scheduler, Sequence, Step


def sequence(identifier: int, prompt: int, budget: int = 4, deadline: float = float("inf")) -> Sequence:
    return Sequence(identifier, tuple(range(prompt)), budget, deadline)


def run(scheduler: Scheduler, step: Step) -> list[int]:
    """What the executor does, with the token 7 for everybody; the sequences that used up their budget."""
    sampled = {feed.sequence: 7 for feed in step.feeds if feed.sample}
    ended = [each for each in sampled if scheduler._running[each].generated + 1 >= scheduler._running[each].budget]
    scheduler.update(step, sampled, ended)
    return ended


def test_a_prompt_is_read_in_chunks_and_sampled_after_its_last_token() -> None:
    scheduler = Scheduler(slots=1, prefill_chunk=4, queue=0)
    scheduler.add(sequence(1, prompt=10))
    seen = []
    for _ in range(3):
        step = scheduler.schedule()
        (feed,) = step.feeds
        seen.append((feed.position, len(feed.tokens), feed.sample))
        run(scheduler, step)
    assert seen == [(0, 4, False), (4, 4, False), (8, 2, True)]
    (feed,) = scheduler.schedule().feeds
    assert (feed.position, feed.tokens, feed.sample) == (10, (7,), True)


def test_a_decoding_sequence_gets_its_token_beside_the_longest_prompt() -> None:
    scheduler = Scheduler(slots=2, prefill_chunk=8, queue=4)
    scheduler.add(sequence(1, prompt=3, budget=100))
    run(scheduler, scheduler.schedule())
    scheduler.add(sequence(2, prompt=1000))
    for _ in range(20):
        step = scheduler.schedule()
        assert [len(feed.tokens) for feed in step.feeds] == [1, 8]
        run(scheduler, step)


def test_prompts_share_a_chunk_and_short_ones_leave_the_rest() -> None:
    scheduler = Scheduler(slots=3, prefill_chunk=12, queue=4)
    for identifier, prompt in ((1, 2), (2, 100), (3, 100)):
        scheduler.add(sequence(identifier, prompt))
    shares = {feed.sequence: len(feed.tokens) for feed in scheduler.schedule().feeds}
    assert shares == {1: 2, 2: 5, 3: 5}


def test_more_prompts_than_tokens_in_a_chunk_take_turns() -> None:
    scheduler = Scheduler(slots=4, prefill_chunk=1, queue=4)
    for identifier in range(4):
        scheduler.add(sequence(identifier, prompt=50))
    fed = []
    for _ in range(8):
        step = scheduler.schedule()
        fed += [feed.sequence for feed in step.feeds]
        run(scheduler, step)
    assert sorted(fed) == sorted([0, 1, 2, 3] * 2)


def test_a_removed_sequence_gives_its_slot_to_the_next_in_the_very_next_step() -> None:
    scheduler = Scheduler(slots=1, prefill_chunk=8, queue=4)
    scheduler.add(sequence(1, prompt=100))
    scheduler.add(sequence(2, prompt=3))
    run(scheduler, scheduler.schedule())
    assert scheduler.remove(1)
    step = scheduler.schedule()
    assert (step.cleared, step.admitted) == ((0,), (2,))
    assert not scheduler.remove(1)


def test_a_slot_is_cleared_even_when_nothing_follows() -> None:
    scheduler = Scheduler(slots=1, prefill_chunk=8, queue=0)
    scheduler.add(sequence(1, prompt=1, budget=1))
    run(scheduler, scheduler.schedule())
    assert scheduler.idle
    step = scheduler.schedule()
    assert (step.cleared, step.feeds) == ((0,), ())


def test_what_is_too_late_is_named_wherever_it_is() -> None:
    scheduler = Scheduler(slots=1, prefill_chunk=8, queue=4)
    for identifier, deadline in ((1, 5.0), (2, 4.0), (3, 9.0)):
        scheduler.add(sequence(identifier, 3, deadline=deadline))
    scheduler.schedule()
    assert scheduler.expired(3.9) == []
    assert scheduler.expired(5.0) == [1, 2]


def test_the_queue_is_bounded_beyond_the_free_slots() -> None:
    scheduler = Scheduler(slots=2, prefill_chunk=8, queue=1)
    for identifier in range(3):
        scheduler.add(sequence(identifier, 3))
    with pytest.raises(QueueFull, match="2 slots"):
        scheduler.add(sequence(4, 3))
    run(scheduler, scheduler.schedule())
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    with pytest.raises(QueueFull):
        scheduler.add(sequence(5, 3))


@given(
    slots=st.integers(1, 6),
    chunk=st.integers(1, 40),
    prompts=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=30),
)
def test_everything_finishes_and_every_token_is_fed_once(
    slots: int, chunk: int, prompts: list[tuple[int, int]]
) -> None:
    """No work is lost, doubled or reordered, and the number of steps is bounded by the work."""
    scheduler = Scheduler(slots, chunk, queue=len(prompts))
    fed: dict[int, list[int]] = {}
    for identifier, (prompt, budget) in enumerate(prompts):
        scheduler.add(sequence(identifier, prompt, budget))
    steps = 0
    while not scheduler.idle:
        step = scheduler.schedule()
        for feed in step.feeds:
            fed.setdefault(feed.sequence, []).extend(range(feed.position, feed.position + len(feed.tokens)))
        run(scheduler, step)
        steps += 1
        assert steps <= sum(prompt + budget for prompt, budget in prompts)
    # The last token drawn is never fed: nothing follows it.
    assert fed == {i: list(range(prompt + budget - 1)) for i, (prompt, budget) in enumerate(prompts)}


class Workload(RuleBasedStateMachine):
    """Requests come, go away and finish in any order, for as long as hypothesis likes."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(slots=3, prefill_chunk=16, queue=5)
        self.next_id = 0
        self.present: set[int] = set()
        self.gone: set[int] = set()
        self.hungry: dict[int, int] = {}

    @rule(prompt=st.integers(1, 300), budget=st.integers(1, 50))
    def arrive(self, prompt: int, budget: int) -> None:
        self.next_id += 1
        full = self.scheduler.waiting >= 5 + 3 - self.scheduler.running
        try:
            self.scheduler.add(sequence(self.next_id, prompt, budget))
        except QueueFull:
            assert full
        else:
            assert not full
            self.present.add(self.next_id)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        identifier = data.draw(st.sampled_from(sorted(self.present)))
        assert self.scheduler.remove(identifier)
        self.present.discard(identifier)
        self.gone.add(identifier)

    @rule()
    def step(self) -> None:
        step = self.scheduler.schedule()
        fed = [feed.sequence for feed in step.feeds]
        assert len(fed) == len(set(fed)) <= 3
        assert len({feed.slot for feed in step.feeds}) == len(fed)
        assert step.tokens <= 3 + 16
        assert not set(fed) & self.gone
        assert all(feed.tokens for feed in step.feeds)
        for identifier in self.scheduler._running:
            self.hungry[identifier] = 0 if identifier in fed else self.hungry.get(identifier, 0) + 1
            assert self.hungry[identifier] < 3, "a running sequence was passed over again and again"
        ended = run(self.scheduler, step)
        self.present -= set(ended)
        self.gone |= set(ended)

    @invariant()
    def never_over_the_slots(self) -> None:
        assert self.scheduler.running <= 3
        assert self.scheduler.running + self.scheduler.waiting == len(self.present)


TestWorkload = Workload.TestCase
