"""Which models stay loaded: budget, pins, leases before victims, one load for many waiting requests."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltaic.engine.errors import NotServed, WorkerFailed
from deltaic.engine.host import Served
from deltaic.engine.relay import LeasedWorker
from deltaic.names import ChannelName, RevisionName
from edge.errors import HotSetFull, NotHeldHere
from edge.hot.hot_set import HotSet

STABLE = ChannelName("m", "stable")
NOWHERE = Path("/nowhere")


def revision(number: int) -> RevisionName:
    return RevisionName("m", f"sha256:{number:064x}")


class Host:
    """Stands in for ModelHost: the same calls, workers that are only names. A revision takes ten bytes of memory."""

    def __init__(self) -> None:
        self.keys: dict[str, RevisionName] = {}
        self.starts: list[RevisionName] = []
        self.leases: Counter[RevisionName] = Counter()
        self.broken: set[RevisionName] = set()
        self.go = asyncio.Event()
        self.go.set()

    async def serve(self, key, revision, path):
        await self.go.wait()
        self.starts.append(revision)
        if revision in self.broken:
            raise WorkerFailed("it does not load")
        self.keys[key] = revision
        return 0.1

    async def release(self, key):
        revision = self.keys[key]
        shared = list(self.keys.values()).count(revision) > 1
        assert shared or not self.leases[revision], "a model in use was evicted"
        await asyncio.sleep(0)
        del self.keys[key]

    def serving(self):
        return [Served(key, revision, 2048, 10) for key, revision in self.keys.items()]

    @asynccontextmanager
    async def lease(self, key):
        found = self.keys.get(str(key)) or next((one for one in self.keys.values() if str(one) == str(key)), None)
        if found is None:
            raise NotServed(f"{key} is not served")
        self.leases[found] += 1
        try:
            yield LeasedWorker(None, found)
        finally:
            self.leases[found] -= 1


class Files:
    def __init__(self) -> None:
        self.removed: set[int] = set()

    def path(self, hex_):
        return None if int(hex_, 16) > 100 or int(hex_, 16) in self.removed else NOWHERE / hex_

    def manifest(self, hex_):
        return SimpleNamespace(size=10)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def make(budget: int) -> tuple[HotSet, Host]:
    host = Host()
    return HotSet(host, Files(), budget, clock=Clock()), host


async def use(hot_set: HotSet, number: int) -> None:
    async with hot_set.load(revision(number)) as leased:
        assert leased.revision == revision(number)


async def test_the_least_recently_used_makes_room():
    hot_set, host = make(budget=20)
    for number in (1, 2, 1, 3):
        await use(hot_set, number)
    assert set(hot_set.keys().values()) == {revision(1), revision(3)}
    assert host.starts == [revision(1), revision(2), revision(3)]


async def test_a_model_in_use_is_no_victim_even_when_it_is_the_oldest():
    hot_set, _ = make(budget=20)
    async with hot_set.load(revision(1)):
        for number in (2, 3, 4):
            await use(hot_set, number)
        assert hot_set.loaded(str(revision(1)))


async def test_when_everything_is_in_use_a_further_model_is_refused_with_what_to_do():
    hot_set, _ = make(budget=20)
    async with hot_set.load(revision(1)), hot_set.load(revision(2)):
        with pytest.raises(HotSetFull, match="hot-bytes"):
            await use(hot_set, 3)
    await use(hot_set, 3)


async def test_a_followed_channel_is_never_a_victim_and_may_exceed_the_budget():
    hot_set, _ = make(budget=10)
    await hot_set.pin(STABLE, revision(1), NOWHERE, 10)
    with pytest.raises(HotSetFull):
        await use(hot_set, 2)
    await hot_set.pin(ChannelName("other", "stable"), revision(3), NOWHERE, 10)
    assert set(hot_set.keys().values()) == {revision(1), revision(3)}


async def test_a_pin_takes_the_room_of_what_nobody_uses():
    hot_set, _ = make(budget=10)
    await use(hot_set, 1)
    await hot_set.pin(STABLE, revision(2), NOWHERE, 10)
    assert hot_set.keys() == {str(STABLE): revision(2)}


async def test_a_revision_that_is_asked_for_while_its_channel_loads_leaves_with_the_channel():
    hot_set, host = make(budget=100)
    host.go.clear()
    pin = asyncio.create_task(hot_set.pin(STABLE, revision(1), NOWHERE, 10))
    request = asyncio.create_task(use(hot_set, 1))
    await asyncio.sleep(0)
    host.go.set()
    await asyncio.gather(pin, request)
    assert host.keys == {str(STABLE): revision(1)}
    await hot_set.pin(STABLE, revision(2), NOWHERE, 10)
    assert host.keys == {str(STABLE): revision(2)}
    assert not hot_set.loaded(str(revision(1)))


async def test_many_requests_for_one_unloaded_model_wait_for_one_load():
    hot_set, host = make(budget=100)
    host.go.clear()
    waiting = [asyncio.create_task(use(hot_set, 1)) for _ in range(20)]
    await asyncio.sleep(0)
    host.go.set()
    await asyncio.gather(*waiting)
    assert host.starts == [revision(1)]


async def test_a_caller_that_goes_away_leaves_the_load_to_the_others():
    hot_set, host = make(budget=100)
    host.go.clear()
    first, second = (asyncio.create_task(use(hot_set, 1)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    host.go.set()
    await second
    assert first.cancelled()
    assert host.starts == [revision(1)]
    assert hot_set.leases() == {}


async def test_a_model_that_does_not_load_is_not_tried_again_at_every_request():
    hot_set, host = make(budget=100)
    host.broken.add(revision(1))
    for _ in range(3):
        with pytest.raises(WorkerFailed):
            await use(hot_set, 1)
    assert host.starts == [revision(1)]
    hot_set._clock.seconds += 100
    host.broken.clear()
    await use(hot_set, 1)


async def test_what_is_not_on_disk_is_not_held():
    hot_set, _ = make(budget=100)
    with pytest.raises(NotHeldHere):
        await use(hot_set, 101)


async def test_a_revision_whose_file_is_removed_is_let_go_of_and_a_channel_is_not():
    hot_set, host = make(budget=100)
    await hot_set.pin(STABLE, revision(1), NOWHERE, 10)
    for number in (2, 3):
        await use(hot_set, number)
    hot_set._files.removed |= {1, 2}
    hot_set.let_go_of_removed()
    assert not hot_set.loaded(str(revision(2))), "no request is sent to it any more"
    await asyncio.gather(*hot_set._releases)
    assert host.keys == {str(STABLE): revision(1), str(revision(3)): revision(3)}
    with pytest.raises(NotHeldHere):
        await use(hot_set, 2)


async def test_a_file_that_is_removed_while_it_is_loaded_leaves_no_worker_behind():
    hot_set, host = make(budget=100)
    host.go.clear()
    request = asyncio.create_task(use(hot_set, 1))
    await asyncio.sleep(0.01)
    hot_set._files.removed.add(1)
    host.go.set()
    await asyncio.gather(request, return_exceptions=True)
    await asyncio.gather(*hot_set._releases)
    assert host.keys == {}
    assert hot_set.keys() == {}


async def test_leases_are_counted_by_revision_whatever_the_key():
    hot_set, _ = make(budget=100)
    await hot_set.pin(STABLE, revision(1), NOWHERE, 10)
    async with hot_set.lease(str(STABLE)), hot_set.load(revision(1)), hot_set.lease(str(revision(1))):
        assert hot_set.leases() == {revision(1): 3}
    assert hot_set.leases() == {}


async def test_a_storm_over_more_models_than_fit_fails_nobody_and_never_evicts_a_lease():
    hot_set, host = make(budget=40)

    async def user(number: int) -> None:
        for step in range(20):
            async with hot_set.load(revision((number * 7 + step) % 9)):
                await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(3):
            group.create_task(user(number))
    assert len(set(host.keys.values())) <= 4
    assert hot_set.leases() == {}
