"""Whatever is asked for, at whatever time: budgets hold, and nobody goes who is pinned, leased or too young."""

import asyncio
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from played_host import PlayedFiles, PlayedHost, revision

from deltaic.names import ChannelName
from edge.errors import HotSetFull
from edge.hot.hot_set import HotSet, Patience
from edge.hot.policy import LeastExpectedCost, Model, Room, choose, total
from edge.hot.rates import Rates
from edge.hot.rivals import GDSF, ByteLRU, LargestFirst, Sieve

RESIDENCY = 5.0
sizes = st.lists(st.integers(1, 60), min_size=2, max_size=7)
steps = st.lists(st.tuples(st.sampled_from("uuuuhpf"), st.integers(0, 6), st.floats(0, 4)), max_size=40)


class Watch:
    """Checks every start and end of a worker against the rules, on a clock that the test moves."""

    def __init__(self, made: list[int], budget: int) -> None:
        self.now = 1000.0
        self.budget = budget
        self.sizes = dict(enumerate(made))
        self.since: dict[int, float] = {}
        self.pinning = False
        self.host = PlayedHost(self.sizes, on_start=self._start, on_end=self._end)
        self.hot_set = HotSet(
            self.host,
            PlayedFiles(self.sizes),
            budget,
            patience=Patience(residency=RESIDENCY),
            kept=lambda: frozenset({revision(0)}),
            clock=lambda: self.now,
            wall=lambda: 1e9 + self.now,
        )

    def _start(self, number: int) -> None:
        self.since[number] = self.now
        taken = sum(self.sizes[each] for each in self.since)
        assert self.pinning or taken <= self.budget, "a load that nobody pinned exceeded the budget"

    def _end(self, number: int) -> None:
        since = self.since.pop(number)
        if not self.pinning:  # a channel's old revision goes with the switch
            assert number != 0, "a pinned model was evicted"
            assert self.now - since >= RESIDENCY, "a model was evicted too early"

    async def step(self, what: str, number: int, seconds: float, held: list[asyncio.Task[None]]) -> None:
        self.now += seconds
        name = revision(number % len(self.sizes))
        match what:
            case "u":
                with suppress(HotSetFull):
                    async with self.hot_set.load(name):
                        await asyncio.sleep(0)
            case "h":
                held.append(asyncio.create_task(self._hold(number % len(self.sizes))))
                await asyncio.sleep(0)
            case "f":
                await self.hot_set.prefetch()
            case "p":
                self.pinning = True
                size = self.sizes[number % len(self.sizes)]
                await self.hot_set.pin(ChannelName("m", "stable"), name, Path("/nowhere"), size)
                self.pinning = False

    async def _hold(self, number: int) -> None:
        with suppress(HotSetFull):
            async with self.hot_set.load(revision(number)):
                await asyncio.sleep(0.002)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(20, 120), steps)
def test_the_hot_set_keeps_its_rules(made, budget, plan):
    async def run() -> None:
        watch, held = Watch(made, budget), []
        for what, number, seconds in plan:
            if what == "p":  # a pin beside loads that run may exceed the budget together with them
                await asyncio.gather(*held)
            await watch.step(what, number, seconds, held)
        await asyncio.gather(*held)
        assert watch.hot_set.leases() == {}

    asyncio.run(run())


models = st.lists(
    st.builds(
        lambda ram, vram, seconds, since, pinned, leased: (Room(ram, vram), seconds, since, pinned, leased),
        st.integers(0, 50),
        st.integers(0, 20),
        st.floats(0.01, 100),
        st.floats(0, 20),
        st.booleans(),
        st.booleans(),
    ),
    max_size=9,
).map(lambda rows: [Model(f"m{place}", *row) for place, row in enumerate(rows)])
policies = st.sampled_from([lambda: LeastExpectedCost(Rates()), ByteLRU, GDSF, Sieve, LargestFirst])


@given(models, st.integers(0, 90), st.integers(0, 30), st.integers(-10, 30), policies)
def test_every_policy_frees_enough_from_those_that_may_go_or_nobody(loaded, ram, vram, left, make):
    policy, now = make(), 20.0
    for each in loaded:
        policy.used(each.name, each.since)
        policy.loaded(each, each.since)
    free, coming = Room(left, left), Model("new", Room(ram, vram), 1.0)
    victims = choose(policy, coming, loaded, free, now, residency=RESIDENCY).victims
    movable = [each for each in loaded if not each.pinned and not each.leased and now - each.since >= RESIDENCY]
    if victims is None:
        assert (free + total(movable) - coming.room).missing
        return
    going = [each for each in loaded if each.name in victims]
    assert all(each in movable for each in going)
    assert not (free + total(going) - coming.room).missing
