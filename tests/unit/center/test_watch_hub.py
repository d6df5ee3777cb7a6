"""The watch hub: newest states, bounded memory, an orderly end."""

import asyncio
from dataclasses import replace

import pytest

from center.errors import NodeStopping
from center.records import Channel, Revision
from center.watch import Watcher, WatchHub
from deltaic.names import ChannelName, RevisionName

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
