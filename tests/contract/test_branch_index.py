"""One suite for every index of a branch: in this process, and on real servers of every kind that is supported."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from index_servers import Proxy, certificate, cluster, sentinels, server

from deltaic.names import ChannelName, RevisionName
from edge.index import redis_index
from edge.index.entries import Lease, LeaseHeld, NodeEntry, RevisionEntry
from edge.index.index import BranchIndex
from edge.index.keys import Keys
from edge.index.memory import MemoryBranch, MemoryIndex
from edge.index.redis_index import AnswerBounds, IndexServer, RedisIndex
from edge.statistics import Outcome, RequestStatistics

FIRST, SECOND = (RevisionName("assistant", "sha256:" + digit * 64) for digit in "ab")
STABLE = ChannelName("assistant", "stable")
KEY = "c" * 64
ANSWERS = AnswerBounds(60.0, 10_000)
PATIENT = 2.0
"""Seconds that a read may take here: what is tested is what it says, on machines of any speed."""
ENTRY = NodeEntry(
    "10.0.0.8:7410",
    {
        FIRST: RevisionEntry(True, (str(STABLE),), 2, 1, 3, 4, 0.02, ("0123456789abcdef",)),
        SECOND: RevisionEntry(True),
    },
)

Node = Callable[..., BranchIndex]


class Branch:
    """Makes nodes of one branch."""

    def __init__(self, make: Node) -> None:
        self._make = make

    @asynccontextmanager
    async def node(
        self, name: str, entry: NodeEntry = ENTRY, statistics: RequestStatistics | None = None
    ) -> AsyncIterator[BranchIndex]:
        async with self._make(name, statistics or RequestStatistics()).running(lambda: entry) as index:
            yield index


def on_server(url: str, ca=None) -> Branch:
    place = IndexServer(url, ca, read_seconds=PATIENT)
    return Branch(lambda name, statistics: RedisIndex(place, Keys("hospital", name), statistics, answers=ANSWERS))


ACL = (
    "on >secret resetkeys ~deltaic:{hospital}:* resetchannels -@all +client|setname +client|setinfo +exists "
    "+getrange +zrevrange +hgetall +type +set +get +strlen +hset +hget +hmget +hdel +hincrby +expire +pexpire +pttl "
    "+del +unlink +zadd +zrem +zcard +zpopmin +zrangebyscore +zremrangebyscore +time +multi +exec +discard"
)
"""As docs/formats/index.md says it."""
WAYS = {"functions": "+fcall +function|load", "scripts": "+eval +evalsha"}
KINDS = ["memory", "functions", "scripts", "sentinel", "cluster", "tls"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Kind -> address and processes of servers that are started when they are first asked for, and emptied again."""
    with ExitStack() as stack:
        started = {}

        def of_kind(kind: str):
            if kind not in started:
                folder = tmp_path_factory.mktemp(kind)
                if kind == "single":
                    valkey = stack.enter_context(server(folder, password="admin"))
                    started[kind] = valkey.url, [valkey]
                else:
                    started[kind] = stack.enter_context({"sentinel": sentinels, "cluster": cluster}[kind](folder))
            url, processes = started[kind]
            for process in processes if kind == "cluster" else processes[:1]:
                process.do("FLUSHALL")
            return url, processes

        yield of_kind


@pytest.fixture(params=KINDS)
async def branch(request, place, tmp_path, monkeypatch) -> AsyncIterator[Branch]:
    monkeypatch.setattr(redis_index, "RECONCILE_SECONDS", 0.3)
    match request.param:
        case "memory":
            shared = MemoryBranch(most_bytes=ANSWERS.most_bytes)
            yield Branch(lambda name, statistics: MemoryIndex(shared, name, statistics))
        case "functions" | "scripts" as ways:
            _, (valkey,) = place("single")
            valkey.do("ACL", "SETUSER", "deltaic", "reset", *ACL.split(), *WAYS[ways].split())
            valkey.do("ACL", "LOG", "RESET")
            yield on_server(f"redis://deltaic:secret@127.0.0.1:{valkey.port}/0")
            refused = [dict(zip(line[::2], line[1::2], strict=True)) for line in valkey.do("ACL", "LOG")]
            # Where functions are not allowed, that is found out by asking for one.
            assert {line[b"object"] for line in refused} <= ({b"fcall"} if ways == "scripts" else set())
        case "tls":
            _, (valkey,) = place("single")
            ca, context = certificate(tmp_path)
            async with Proxy(valkey.port, context).running() as proxy:
                yield on_server(f"rediss://:admin@127.0.0.1:{proxy.port}/0", ca)
        case kind:
            yield on_server(place(kind)[0])


async def becomes(read, wanted, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := await read()) != wanted:
        assert time.monotonic() < deadline, f"{found} did not become {wanted}"
        await asyncio.sleep(0.05)


async def test_a_branch_tells_who_holds_what_and_how_busy_they_are(branch):
    async with branch.node("one"), branch.node("two", NodeEntry()) as two:

        async def names():
            return [found.node for found in await two.neighbours(FIRST)]

        await becomes(names, ["one"])
        (found,) = await two.neighbours(STABLE)
        assert (found.node, found.address, found.revision) == ("one", "10.0.0.8:7410", FIRST)
        assert (found.loaded, found.held, found.running, found.waiting, found.slots) == (True, True, 1, 3, 4)
        assert found.seconds_per_token == 0.02
        assert found.prefixes == {"0123456789abcdef"}
        (on_disk,) = await two.neighbours(SECOND)
        assert (on_disk.loaded, on_disk.held) == (False, True)
        assert await two.neighbours(ChannelName("assistant", "canary")) == ()
        assert await two.neighbours(ChannelName("coder", "stable")) == ()


async def test_nobody_is_its_own_neighbour_and_who_left_is_none(branch):
    async with branch.node("two", NodeEntry()) as two:
        async with branch.node("one") as one:

            async def seen():
                return len(await two.neighbours(FIRST))

            await becomes(seen, 1)
            assert await one.neighbours(FIRST) == ()
        await becomes(seen, 0)


async def test_rates_are_of_the_whole_branch(branch):
    statistics = RequestStatistics(), RequestStatistics()
    for count, each in zip((60, 30), statistics, strict=True):
        for _ in range(count):
            each.record("assistant", Outcome.ANSWERED)
    async with (
        branch.node("one", statistics=statistics[0]) as one,
        branch.node("two", statistics=statistics[1]),
    ):

        async def at_least():
            rates = await one.rates(["assistant", "coder"])
            return (90 / 600 <= rates.get("assistant", 0) <= 90 / 540, rates.get("coder"))

        await becomes(at_least, (True, 0.0))


async def test_shares_of_tenants_add_up_over_the_edges(branch):
    async with branch.node("one") as one, branch.node("two") as two:
        one.count_served("ward", 100)
        one.count_served("ward", 20)
        two.count_served("ward", 30)
        two.count_served("kitchen", 7)

        async def totals():
            served = await one.served(["ward", "kitchen", "nobody"])
            # A window may end while this runs: then the older one counts for a little less.
            return {tenant: round(count / 10) for tenant, count in served.items()}

        await becomes(totals, {"ward": 15, "kitchen": 1, "nobody": 0})


async def test_a_stored_value_is_there_for_all_edges_under_its_own_revision(branch):
    async with branch.node("one") as one, branch.node("two") as two:
        one.store(FIRST, KEY, b"\xff\x00value")
        await becomes(lambda: two.cached(FIRST, KEY), b"\xff\x00value")
        assert await two.cached(SECOND, KEY) is None
        assert await two.cached(FIRST, "d" * 64) is None
        two.store(FIRST, KEY, b"another")
        await becomes(lambda: one.cached(FIRST, KEY), b"another")


async def test_stored_values_stay_within_their_bytes_and_the_older_make_room(branch):
    keys = [f"{number:064x}" for number in range(8)]
    async with branch.node("one") as one:
        for key in keys:
            one.store(FIRST, key, b"x" * 2_000)
            await becomes(lambda key=key: one.cached(FIRST, key), b"x" * 2_000)
        kept = [key for key in keys if await one.cached(FIRST, key) is not None]
        assert kept == keys[-5:]
        one.store(SECOND, KEY, b"x" * 20_000)
        one.store(SECOND, "d" * 64, b"fits")
        await becomes(lambda: one.cached(SECOND, "d" * 64), b"fits")
        assert await one.cached(SECOND, KEY) is None


async def test_values_go_with_their_revision_once_no_neighbour_has_it(branch):
    async with branch.node("two", NodeEntry()) as two:
        async with branch.node("one") as one:
            two.store(FIRST, KEY, b"value")
            two.store(SECOND, KEY, b"other")
            await becomes(lambda: one.cached(FIRST, KEY), b"value")
            await becomes(lambda: one.cached(SECOND, KEY), b"other")

            async def seen():
                return len(await two.neighbours(FIRST))

            await becomes(seen, 1)
            two.drop_revision(FIRST)
            two.store(SECOND, "e" * 64, b"marks that the drop was done")
            await becomes(lambda: one.cached(SECOND, "e" * 64), b"marks that the drop was done")
            assert await one.cached(FIRST, KEY) == b"value"
        await becomes(seen, 0)
        two.drop_revision(FIRST)
        await becomes(lambda: two.cached(FIRST, KEY), None)
        assert await two.cached(SECOND, KEY) == b"other"


async def test_one_node_at_a_time_has_a_lease_and_each_has_a_larger_token(branch):
    async with branch.node("one") as one, branch.node("two") as two:
        first = await one.lease("pull", 30)
        assert isinstance(first, Lease)
        held = await two.lease("pull", 30)
        assert isinstance(held, LeaseHeld)
        assert held.node == "one"
        assert 0 < held.seconds <= 30
        renewed = await one.lease("pull", 30)
        assert isinstance(renewed, Lease)
        assert renewed.token > first.token
        await one.release(first)  # no longer the lease that is held
        assert isinstance(await two.lease("pull", 30), LeaseHeld)
        await one.release(renewed)
        second = await two.lease("pull", 0.05)
        assert isinstance(second, Lease)
        assert second.token > renewed.token

        async def of_one():
            return isinstance(await one.lease("pull", 30), Lease)

        await becomes(of_one, True)
        other = await two.lease("another", 30)
        assert isinstance(other, Lease)


async def test_of_many_that_want_a_lease_at_once_one_gets_it(branch):
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(branch.node(f"n{number}")) for number in range(4)]
        asked = await asyncio.gather(*(node.lease("pull", 30) for node in nodes))
        assert [type(answer) for answer in asked].count(Lease) == 1
        assert [type(answer) for answer in asked].count(LeaseHeld) == 3
