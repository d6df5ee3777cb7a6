"""The scheduler over long random workloads: what holds whoever comes, whenever, and whatever they ask for."""

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scheduler_simulation import Simulation, alone

from deltaic.engine.scheduling.request import Request, Scope
from deltaic.engine.scheduling.scheduler import Limits

# Shrinking a workload of thousands of steps takes minutes and explains little: the seed is what matters.
LONG = {"deadline": None, "phases": (Phase.explicit, Phase.reuse, Phase.generate)}

LIMITS = st.builds(
    Limits,
    slots=st.integers(1, 6),
    queue=st.integers(0, 40),
    batch=st.integers(8, 200),
    short=st.integers(1, 100),
    patience=st.floats(0.05, 5),
    share_gap=st.floats(1, 500),
)


def workload(seed: int, count: int, *, deadlines: bool) -> list[tuple[float, Request, float | None]]:
    """Requests by arrival, some of which go away again; many begin with the same text."""
    draw = random.Random(seed)
    starts = [tuple(draw.choices(range(1, 6), k=draw.randint(0, 150))) for _ in range(4)]
    requests, now = [], 0.0
    for number in range(count):
        now += draw.expovariate(draw.choice([2, 20, 200]))
        prompt = draw.choice(starts) + tuple(draw.choices(range(1, 6), k=draw.randint(1, 40)))
        scope = Scope(draw.choice("ab"), draw.choice([(), (), (("x", 1.0),)]))
        deadline = now + draw.uniform(0.01, 5) if deadlines and draw.random() < 0.3 else float("inf")
        budget = draw.choice([1, 3, 20, 100])
        request = Request(number, prompt, budget, now, deadline, draw.choice([1, 2, 2, 3]), scope)
        requests.append((now, request, now + draw.uniform(0, 2) if draw.random() < 0.1 else None))
    return requests


def play(simulation: Simulation, requests: list[tuple[float, Request, float | None]]) -> set[int]:
    """Let them come and go, then run dry; those who went away themselves."""
    leaving: list[tuple[float, int]] = []
    gone = set()
    for arrival, request, leaves in requests:
        while simulation.now < arrival and not simulation.scheduler.idle:
            for when, number in list(leaving):
                if when <= simulation.now:
                    leaving.remove((when, number))
                    if number in simulation.running:
                        simulation.cancel(number)
                        gone.add(number)
            simulation.turn()
        simulation.now = max(simulation.now, arrival)
        if simulation.add(request) and leaves is not None:
            leaving.append((leaves, request.id))
    simulation.run()
    return gone


@settings(max_examples=60, **LONG)
@given(LIMITS, st.integers(0, 20_000), st.integers(0, 40), st.integers(0, 1 << 30))
def test_everybody_is_answered_as_if_alone(limits: Limits, store: int, ends: int, seed: int) -> None:
    """Slots, batch and store keep their bounds, and parking, prefixes and company change no token (see Simulation)."""
    simulation = Simulation(limits, store, ends)
    requests = workload(seed, 60, deadlines=False)
    gone = play(simulation, requests)
    for _, request, _ in requests:
        if request.id not in gone and request.id not in simulation.refused:
            assert simulation.done[request.id] == alone(request, ends)
    assert len(simulation.done) + len(gone) + len(simulation.refused) == len(requests)
    assert simulation.scheduler.memory.free == limits.slots
    assert simulation.scheduler.shares.tenants == 0
    assert all(retry > 0 for retry in simulation.retries)


@settings(max_examples=40, **LONG)
@given(LIMITS, st.integers(0, 1 << 30))
def test_nobody_stays_beyond_the_deadline(limits: Limits, seed: int) -> None:
    simulation = Simulation(limits, 5_000, 30)
    requests = workload(seed, 60, deadlines=True)
    ended: dict[int, float] = {}
    simulation.on_done = lambda request: ended.setdefault(request.id, simulation.now)
    play(simulation, requests)
    longest = max((seconds for seconds, _, _ in simulation.steps), default=0)
    for _, request, _ in requests:
        if request.id in ended:
            assert ended[request.id] <= request.deadline + longest
    assert not simulation.running


@settings(max_examples=20, **LONG)
@given(st.integers(2, 8), st.integers(10, 60), st.integers(1, 300), st.integers(0, 1 << 30))
def test_ten_times_the_load_gets_no_larger_share(slots: int, budget: int, prompt: int, seed: int) -> None:
    """Both tenants always have something waiting; one has ten times as much."""
    draw = random.Random(seed)
    simulation = Simulation(Limits(slots, 1000, 256, 64, share_gap=1000), 0)
    numbers = iter(range(1_000_000))

    def another(tenant: str) -> None:
        tokens = tuple(draw.choices(range(1, 50), k=draw.randint(1, prompt)))
        simulation.add(Request(next(numbers), tokens, draw.randint(1, budget), simulation.now, scope=Scope(tenant)))

    simulation.on_done = lambda request: another(request.scope.tenant)
    for _ in range(10 * 2 * slots):
        another("many")
    for _ in range(2 * slots):
        another("few")
    for _ in range(4000):
        simulation.turn()
    few, many = simulation.served["few"], simulation.served["many"]
    assert few + many > 3_000
    assert abs(few - many) / (few + many) < 0.05, (few, many)


@given(st.integers(1, 8), st.integers(1, 50))
@settings(max_examples=25, **LONG)
def test_a_stream_of_higher_priority_starves_nobody(slots: int, budget: int) -> None:
    simulation = Simulation(Limits(slots, 1000, 256, 64, patience=1.0), 100_000)
    simulation.add(Request("low", (1, 2, 3), 5, 0.0, priority=1))
    numbers = iter(range(1_000_000))

    def another(_: Request | None = None) -> None:
        number = next(numbers)
        simulation.add(Request(number, (number + 9, 4), budget, simulation.now, priority=3, scope=Scope("other")))

    simulation.on_done = another
    for _ in range(4 * slots):
        another()
    for _ in range(20_000):
        if "low" in simulation.done:
            return
        simulation.turn()
    pytest.fail("low priority never came to its turn")


@settings(max_examples=30, **LONG)
@given(st.integers(2, 12), st.integers(400, 4000), st.floats(0.0005, 0.01))
def test_a_long_prompt_stretches_no_gap_much(streams: int, prompt: int, prefill: float) -> None:
    simulation = Simulation(Limits(streams + 1, 10, 512, 64), prefill_seconds=prefill)
    for number in range(streams):
        simulation.add(Request(number, (number + 9, 2), 100_000))
    for _ in range(30):
        simulation.turn()
    usual = min(seconds for seconds, _, prefilled in simulation.steps if not prefilled)
    before = len(simulation.steps)
    simulation.add(Request("long", (7,) * prompt, 1, simulation.now))
    while "long" not in simulation.done:
        simulation.turn()
    assert max(gaps(simulation.steps[before:])[4:], default=0) <= max(3 * usual, usual * 1.2 + prefill)


def gaps(steps: list[tuple[float, int, int]]) -> list[float]:
    """Seconds between two tokens of the answers."""
    found, since = [], 0.0
    for seconds, decoding, _ in steps:
        since += seconds
        if decoding:
            found.append(since)
            since = 0.0
    return found


def test_answers_and_prompts_take_turns() -> None:
    simulation = Simulation(Limits(3, 10, 512, 64))
    simulation.add(Request("first", (1, 2, 3), 20))
    assert [simulation.turn().reading for _ in range(3)] == [True, False, False]
    simulation.add(Request("second", (4, 5, 6), 20))
    assert simulation.turn().reading
    simulation.add(Request("third", (7, 8, 9), 20))
    step = simulation.turn()
    assert not step.reading
    assert {feed.request for feed in step.feeds} == {"first", "second"}
    assert simulation.turn().reading


@given(st.integers(65, 400))
def test_who_has_read_a_long_prompt_lets_the_others_go_first(prompt: int) -> None:
    simulation = Simulation(Limits(3, 10, 512, 64))
    simulation.add(Request("first", (1, 2), 1_000))
    for _ in range(30):
        simulation.turn()
    long = Request("long", (7,) * prompt, 20, simulation.now)
    simulation.add(long)
    while long.unread > 1 or not long.fed:
        step = simulation.turn()
    assert step.reading
    assert [feed.request for feed in simulation.turn().feeds] == ["first"]
    assert {feed.request for feed in simulation.turn().feeds} == {"first", "long"}


def test_a_shared_beginning_is_read_once() -> None:
    system = tuple(range(100, 400))
    simulation = Simulation(Limits(4, 100, 64, 16), 10_000_000)
    for number in range(12):
        simulation.add(Request(number, (*system, number + 1000, 5), 4))
    simulation.run()
    read = sum(prefilled for _, _, prefilled in simulation.steps)
    assert read < len(system) + 12 * 60


def test_another_tenant_gains_nothing_from_a_known_beginning() -> None:
    system = tuple(range(100, 400))
    simulation = Simulation(Limits(4, 100, 512, 16), 10_000_000)
    cached = {}
    simulation.on_done = lambda request: cached.setdefault(request.id, request.cached)
    for number, tenant in enumerate("aabb"):
        simulation.add(Request(number, (*system, number), 4, scope=Scope(tenant)))
        simulation.run()
    assert [cached[0] > 0, cached[1] > 0, cached[2] > 0, cached[3] > 0] == [False, True, False, True]


def test_high_priority_parks_the_lowest_and_it_goes_on_where_it_was() -> None:
    simulation = Simulation(Limits(1, 10, 64, 16), 100_000)
    low = Request("low", (1,) * 60, 200, priority=1)
    simulation.add(low)
    for _ in range(100):
        simulation.turn()
    simulation.add(Request("high", (2, 3), 5, simulation.now, priority=3))
    read_before = sum(prefilled for _, _, prefilled in simulation.steps)
    simulation.run()
    assert list(simulation.done) == ["high", "low"]
    assert simulation.done["low"] == alone(low, 0)
    assert simulation.scheduler.preemptions == 1
    assert sum(prefilled for _, _, prefilled in simulation.steps) - read_before <= 2
