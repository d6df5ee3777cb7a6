"""Who fetches a revision for the branch: one at a time, the next when that one dies, everybody without an index."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from deltaic.names import ChannelName, RevisionName
from edge.branch.lines import IDLE_SECONDS, MOST_LINES, Lines
from edge.branch.pulling import LEASE_SECONDS, BranchTurns
from edge.index.entries import Neighbour
from edge.index.memory import MemoryBranch, MemoryIndex
from edge.statistics import RequestStatistics

REVISION = RevisionName("m", f"sha256:{1:064x}")


class State:
    revision = REVISION
    channel = ChannelName("m", "stable")


class Channel:
    def __init__(self, address: str) -> None:
        self.address, self.closed = address, False

    def __getattr__(self, _kind):
        """The calls of a stub, which are not made here."""
        return lambda *_args, **_kwargs: None

    async def close(self) -> None:
        self.closed = True


class Source:
    def __init__(self, address: str, _channel: Channel) -> None:
        self.name = f"edge {address}"


class Holders:
    """The edges that hold the revision."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def of(self, _target):
        return tuple(Neighbour(each, each, REVISION, loaded=False, held=True) for each in self.addresses)


class Nobody:
    """An index that cannot say."""

    async def lease(self, _name, _seconds):
        return None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def holders():
    return Holders()


@pytest.fixture
def edges(clock, holders):
    """Two edges of a branch."""
    shared = MemoryBranch(clock)
    return [turns_of(MemoryIndex(shared, name, RequestStatistics()), holders, clock) for name in ("a", "b")]


def turns_of(index, holders, clock) -> BranchTurns:
    return BranchTurns(index, holders, Lines(Channel), Source, lambda _state: None, clock=clock)


@asynccontextmanager
async def waiting(turns: BranchTurns):
    """A turn that is being waited for; `got` is set with what it gives."""
    got: asyncio.Future = asyncio.get_running_loop().create_future()

    async def take() -> None:
        async with turns.turn(State, lambda: 0) as near:
            got.set_result([each.source.name for each in near])

    task = asyncio.create_task(take())
    await asyncio.sleep(0.02)
    yield got
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_while_one_fetches_the_other_waits_and_then_has_it_from_there(edges, holders):
    a, b = edges
    async with a.turn(State, lambda: 0) as near:
        assert near == ()
        async with waiting(b) as got:
            assert not got.done()
            holders.addresses = ["a:1"]
            assert await got == ["edge a:1"]


async def test_one_that_has_fetched_lets_nobody_fetch_before_its_file_was_seen(edges):
    a, b = edges
    async with a.turn(State, lambda: 0):
        pass
    async with waiting(b) as got:
        assert not got.done()


async def test_one_that_fails_gives_its_turn_to_the_next_at_once(edges):
    a, b = edges
    with pytest.raises(RuntimeError):
        async with a.turn(State, lambda: 0):
            raise RuntimeError
    async with waiting(b) as got:
        assert await got == []


async def test_the_turn_of_one_that_died_runs_out(edges, clock):
    a, b = edges
    turn = a.turn(State, lambda: 0)
    await turn.__aenter__()
    async with waiting(b) as got:
        assert not got.done()
        clock.now += LEASE_SECONDS + 1
        assert await got == []
    await turn.__aexit__(None, None, None)


async def test_sources_that_failed_are_left_out_for_a_while(edges, holders, clock):
    a, _ = edges
    holders.addresses = ["b:1", "c:1"]
    async with a.turn(State, lambda: 0) as near:
        a.failed(near[:1])
    async with a.turn(State, lambda: 0) as near:
        assert [each.source.name for each in near] == ["edge c:1"]
    clock.now += 60
    async with a.turn(State, lambda: 0) as near:
        assert len(near) == 2


async def test_without_an_index_everybody_fetches(holders, clock):
    async with turns_of(Nobody(), holders, clock).turn(State, lambda: 0) as one:
        async with turns_of(Nobody(), holders, clock).turn(State, lambda: 0) as other:
            assert (one, other) == ((), ())


async def test_lines_are_kept_while_used_closed_when_idle_and_never_too_many(clock):
    lines = Lines(Channel, clock)
    async with lines.used("a:1") as first:
        async with lines.used("a:1") as again:
            assert first is again
        clock.now += 2 * IDLE_SECONDS
        for number in range(MOST_LINES + 5):
            async with lines.used(f"b:{number}"):
                pass
        assert not first.closed
        assert len(lines.addresses) <= MOST_LINES
    clock.now += 2 * IDLE_SECONDS
    async with lines.used("c:1"):
        pass
    assert first.closed
    assert lines.addresses == ["c:1"]
    await lines.close()
    assert lines.addresses == []
