"""Requests that wait for room: by batches, in turn, none dropped; and loads that nobody waits for."""

import asyncio
import time

import pytest
from played_host import PlayedFiles, PlayedHost, revision

from deltaic.engine.placement.gpus import Gpu
from deltaic.engine.settings import EngineSettings
from deltaic.names import ChannelName
from edge.errors import HotSetFull
from edge.hot.hot_set import HotSet, Patience
from edge.hot.needs import Needs, vram_budget
from edge.hot.policy import Room
from edge.hot.remembered import NAME
from edge.hot.tending import tended

PATIENT = Patience(residency=0.03, collate=0.02, wait=60.0)
STABLE = ChannelName("m", "stable")


def make(sizes, budget, patience=PATIENT, **more):
    host = PlayedHost(sizes)
    return HotSet(host, PlayedFiles(sizes), budget, patience=patience, **more), host


async def test_two_models_of_which_one_fits_are_switched_by_batches_and_nobody_is_dropped():
    hot_set, host = make({1: 10, 2: 10}, budget=10)
    answered = []

    async def user(start: int) -> None:
        for step in range(20):
            number = 1 + (start + step) % 2
            async with hot_set.load(revision(number)) as leased:
                assert leased.revision == revision(number)
                await asyncio.sleep(0.001)
            answered.append(number)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for start in range(8):
            group.create_task(user(start))
    assert len(answered) == 160
    assert len(host.starts) <= 2 + (time.monotonic() - began) / PATIENT.residency
    assert hot_set.leases() == {}


async def test_a_model_that_is_always_in_use_gives_way_and_comes_back_for_those_who_ask_meanwhile():
    hot_set, host = make({1: 10, 2: 10}, budget=10)
    over = asyncio.Event()
    rounds = [0, 0]

    async def busy(place: int) -> None:
        while not over.is_set():
            async with hot_set.load(revision(1)):
                await asyncio.sleep(0.004)
            rounds[place] += 1

    async with asyncio.TaskGroup() as group:
        for place in range(2):  # one of them is always answering
            group.create_task(busy(place))
            await asyncio.sleep(0.002)
        async with hot_set.load(revision(2)):
            before = list(rounds)
        while not all(now > then for now, then in zip(rounds, before, strict=True)):
            await asyncio.sleep(0.001)
        over.set()
    assert host.starts[:3] == [1, 2, 1]


async def test_while_a_load_waits_who_is_in_its_way_takes_no_further_requests_and_then_does_again():
    hot_set, _ = make({1: 10, 2: 10}, budget=10, patience=Patience(collate=0.0, wait=0.2))
    async with hot_set.load(revision(1)):
        waiting = asyncio.create_task(_use(hot_set, 2))
        while hot_set.loaded(str(revision(1))):
            await asyncio.sleep(0)
        late = asyncio.create_task(_use(hot_set, 1))
        with pytest.raises(HotSetFull, match="no room"):
            await waiting
        await late
        assert hot_set.loaded(str(revision(1)))


async def test_a_young_model_stays_until_it_is_old_enough():
    clock = [0.0]
    sizes = {1: 10, 2: 10}
    hot_set, host = make(sizes, 10, Patience(residency=5), clock=lambda: clock[0], wall=lambda: 1e9 + clock[0])
    await _use(hot_set, 1)
    clock[0] = 4.9
    with pytest.raises(HotSetFull):
        await _use(hot_set, 2)
    clock[0] = 5.0
    await _use(hot_set, 2)
    assert host.starts == [1, 2]


async def test_what_can_never_fit_is_refused_at_once():
    hot_set, _ = make({1: 11}, budget=10)
    with pytest.raises(HotSetFull, match="hot-bytes"):
        async with asyncio.timeout(30):
            await _use(hot_set, 1)


async def test_a_caller_that_can_go_elsewhere_need_not_wait():
    hot_set, _ = make({1: 10, 2: 10}, budget=10)
    async with hot_set.load(revision(1)):
        with pytest.raises(HotSetFull):
            async with asyncio.timeout(30), hot_set.load(revision(2), wait=0):
                pass


async def test_no_more_requests_wait_for_a_model_than_configured():
    hot_set, host = make({1: 10}, 10, Patience(requests=3))
    first = [asyncio.create_task(_use(hot_set, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(HotSetFull, match="3 requests already wait"):
        await _use(hot_set, 1)
    await asyncio.gather(*first)
    await _use(hot_set, 1)
    assert host.starts == [1]


async def test_what_the_operator_pins_is_loaded_before_it_is_asked_for_and_never_goes():
    hot_set, host = make({1: 10, 2: 10, 3: 10}, 20, Patience(), kept=lambda: frozenset({revision(3)}))
    await _use(hot_set, 1)
    await _use(hot_set, 2)
    assert await hot_set.prefetch() == revision(3)
    for number in (1, 2, 1, 2):
        await _use(hot_set, number)
    assert revision(3) in hot_set.keys().values()
    assert await hot_set.prefetch() is None
    assert host.starts.count(3) == 1


async def test_what_is_likely_is_loaded_into_free_room_and_evicts_nobody():
    now = [1e9]
    hot_set, host = make({1: 10, 2: 10}, 20, Patience(), wall=lambda: now[0])
    for _ in range(24):
        now[0] += 3600
        for number in (1, 2):
            hot_set.rates.record(str(revision(number)), now[0])
    assert {await hot_set.prefetch(), await hot_set.prefetch()} == {revision(1), revision(2)}
    small, small_host = make({1: 10, 2: 10}, 15, Patience(), wall=lambda: now[0], rates=hot_set.rates)
    await _use(small, 1)
    assert await small.prefetch() is None
    assert (host.starts.count(1), small_host.starts) == (1, [1])


async def test_a_channel_that_moves_takes_along_who_asks_for_it():
    hot_set, _ = make({1: 10, 2: 10}, 20, Patience())
    await hot_set.pin(STABLE, revision(1), PlayedFiles({1: 10}).path(revision(1).hex), 10)
    async with hot_set.lease(str(STABLE)):
        pass
    await hot_set.pin(STABLE, revision(2), PlayedFiles({2: 10}).path(revision(2).hex), 10)
    now = time.time()
    assert hot_set.rates.rate(str(revision(2)), now) > 0


async def test_a_restart_knows_what_was_learned(tmp_path):
    hot_set, _ = make({1: 10}, 20, Patience())
    async with tended(hot_set, tmp_path, every=0):
        await _use(hot_set, 1)
    assert (tmp_path / NAME).exists()
    again, _ = make({1: 10}, 20, Patience())
    async with tended(again, tmp_path, every=0):
        assert again.rates.rate(str(revision(1)), time.time()) > 0


async def test_the_bytes_of_adapters_count_to_their_model(tmp_path):
    model, folder = tmp_path / "model.gguf", tmp_path / "adapters" / "m"
    model.write_bytes(b"not a model")
    folder.mkdir(parents=True)
    needs = Needs(EngineSettings(), tmp_path / "adapters")
    before = needs.of(model, "m", 11)
    (folder / "polite.gguf").write_bytes(bytes(5000))
    assert needs.of(model, "m", 11) == before + Room(5000)
    assert needs.of(model, "other", 11) == before
    assert before.ram > 11
    assert needs.of(tmp_path / "absent", "m", 11) == Room(11)


def test_the_budget_of_gpu_memory_is_what_was_asked_for_or_what_is_free():
    gpus = [Gpu(0, "a", 100, 200), Gpu(1, "b", 50, 200)]
    assert vram_budget(0, gpus) == 150
    assert vram_budget(70, gpus) == 70
    assert vram_budget(0, []) == 0


async def _use(hot_set, number):
    async with hot_set.load(revision(number)) as leased:
        assert leased.revision == revision(number)
