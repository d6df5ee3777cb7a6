"""The watch hub: newest states, bounded memory, an orderly end."""

import asyncio
import threading
from dataclasses import replace

import pytest

from center.errors import NodeStopping
from center.records import Channel, Revision
from center.registry_servicer import RegistryServicer
from center.watch import Watcher, WatchHub
from deltaic.names import ChannelName, RevisionName
from deltaic.rpc.context import enter_call
from deltaic.trust.identity import Identity
from deltaic.v1 import registry_pb2

STABLE, CANARY = ChannelName("m", "stable"), ChannelName("m", "canary")


def state(version: int, name: ChannelName = STABLE) -> Channel:
    return Channel(name, Revision(RevisionName("m", f"sha256:{version:064x}"), 1, 1, 1), version, version)


async def taken(watcher: Watcher, count: int) -> list[int]:
    states = watcher.states()
    async with asyncio.timeout(5):
        return [(await anext(states)).version for _ in range(count)]


async def test_a_watcher_gets_what_it_asked_for_and_nothing_else() -> None:
    hub = WatchHub()
    with hub.watching([STABLE]) as watcher:
        hub.announce(state(1, CANARY))
        hub.announce(state(2))
        assert await taken(watcher, 1) == [2]


async def test_a_slow_watcher_gets_the_newest_state_of_each_channel() -> None:
    hub = WatchHub()
    with hub.watching([]) as watcher:
        for version in range(1, 1_001):
            hub.announce(state(version, STABLE if version % 2 else CANARY))
        assert sorted(await taken(watcher, 2)) == [999, 1000]


async def test_states_that_are_announced_in_the_wrong_order_never_go_back() -> None:
    hub = WatchHub()
    with hub.watching([]) as watcher:
        hub.announce(state(5))
        assert await taken(watcher, 1) == [5]
        hub.announce(state(4))
        hub.announce(state(6))
        assert await taken(watcher, 1) == [6]


async def test_a_snapshot_read_before_a_move_does_not_hide_the_move() -> None:
    hub = WatchHub()
    with hub.watching([]) as watcher:
        snapshot = state(1)
        hub.announce(state(2))
        watcher.offer(snapshot)
        assert await taken(watcher, 1) == [2]


async def test_the_same_state_is_told_once() -> None:
    hub = WatchHub()
    with hub.watching([]) as watcher:
        hub.announce(state(1))
        watcher.offer(replace(state(1)))
        assert await taken(watcher, 1) == [1]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(watcher.states())


async def test_closing_ends_those_who_wait_and_those_who_come() -> None:
    hub = WatchHub()
    with hub.watching([]) as watcher:
        waiting = asyncio.ensure_future(taken(watcher, 1))
        await asyncio.sleep(0)
        hub.close()
        with pytest.raises(NodeStopping):
            await waiting
    with pytest.raises(NodeStopping), hub.watching([]):
        raise AssertionError("a closed hub let a watcher in")


class SlowCatalog:
    """Commits a move only when it is told to."""

    def __init__(self) -> None:
        self.entered, self.commit = threading.Event(), threading.Event()

    def set_channel(self, *_names: object, **_by: object) -> Channel:
        self.entered.set()
        assert self.commit.wait(10)
        return state(7)


async def test_a_move_whose_caller_left_while_it_was_committed_is_announced_all_the_same() -> None:
    hub, catalog = WatchHub(), SlowCatalog()
    servicer = RegistryServicer(catalog, None, None, hub, None, None, None)  # type: ignore[arg-type]
    enter_call("1", Identity("operator", frozenset()))
    request = registry_pb2.SetChannelRequest(name=str(STABLE), revision=str(state(7).revision.name))
    with hub.watching([STABLE]) as watcher:
        moving = asyncio.create_task(servicer.SetChannel(request, None))  # type: ignore[arg-type]
        await asyncio.to_thread(catalog.entered.wait)
        moving.cancel()
        catalog.commit.set()
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert await taken(watcher, 1) == [7]
