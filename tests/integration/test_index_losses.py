"""An index that is slow, gone, read-only, full, cut off or full of garbage: answers go on, and the truth comes back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from index_servers import Proxy, Server, cluster, sentinels, server
from structlog.testing import capture_logs

from deltaic.names import ChannelName, RevisionName
from edge.index import redis_index
from edge.index.entries import LeaseHeld, NodeEntry, RevisionEntry
from edge.index.keys import Keys
from edge.index.node_json import MOST_BYTES
from edge.index.redis_index import AnswerBounds, IndexServer, RedisIndex
from edge.statistics import Outcome, RequestStatistics

REVISION = RevisionName("assistant", "sha256:" + "a" * 64)
STABLE = ChannelName("assistant", "stable")
ENTRY = NodeEntry("10.0.0.8:7410", {REVISION: RevisionEntry(True, (str(STABLE),), 2)})
KEYS = {name: Keys("hospital", name) for name in ("one", "two")}
QUICK, PATIENT = 0.01, 2.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(redis_index, "RECONCILE_SECONDS", 0.3)


@pytest.fixture
def valkey(tmp_path: Path):
    with server(tmp_path) as started:
        yield started


def node(url: str, name: str = "two", *, read_seconds: float = PATIENT, statistics: RequestStatistics | None = None):
    place = IndexServer(url, read_seconds=read_seconds)
    index = RedisIndex(place, KEYS[name], statistics or RequestStatistics(), answers=AnswerBounds(60, 1 << 20))
    return index.running(lambda: ENTRY if name == "one" else NodeEntry())


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def sees_one(index: RedisIndex) -> Callable[[], Awaitable[bool]]:
    async def sees() -> bool:
        return [found.node for found in await index.neighbours(STABLE)] == ["one"]

    return sees


def sees_nobody(index: RedisIndex) -> Callable[[], Awaitable[bool]]:
    async def sees() -> bool:
        return await index.neighbours(STABLE) == ()

    return sees


async def hangs(index: RedisIndex) -> None:
    """Reads of a server that does not answer: each is given up in time, and after a few none is tried."""
    slowest = 0.0
    for _ in range(20):
        started = time.monotonic()
        assert await index.neighbours(STABLE) == ()
        assert await index.cached(REVISION, "c" * 64) is None
        slowest = max(slowest, time.monotonic() - started)
        await asyncio.sleep(0.01)

    async def is_down() -> bool:
        await index.neighbours(STABLE)
        return not index.up

    await until(is_down)
    assert slowest < 1.0  # a call of the client library takes longer
    assert await index.served(["ward"]) == {"ward": 0.0}
    assert await index.rates(["assistant"]) == {"assistant": 0.0}


async def test_a_stopped_server_costs_some_milliseconds_a_few_times_and_then_nothing(valkey: Server) -> None:
    async with node(valkey.url, "one"), node(valkey.url, read_seconds=QUICK) as two:
        await until(sees_one(two))
        with valkey.stopped():
            await hangs(two)
            asked = two._reader._waiting
            before = len(asked)
            assert await two.neighbours(STABLE) == ()
            assert len(asked) == before, "it was asked although it is known to be gone"
        await until(sees_one(two))
        assert two.up


async def test_a_server_that_sleeps_is_slow_and_then_it_is_there_again(valkey: Server) -> None:
    async with node(valkey.url, "one"), node(valkey.url, read_seconds=QUICK) as two:
        await until(sees_one(two))
        asleep = asyncio.create_task(asyncio.to_thread(_sleep, valkey, 2))
        await until(sees_nobody(two))
        await asleep
        await until(sees_one(two))


def _sleep(valkey: Server, seconds: int) -> None:
    with valkey.client() as client:
        client.execute_command("DEBUG", "SLEEP", seconds)


async def test_a_flushed_server_is_filled_again_counts_functions_and_all(valkey: Server) -> None:
    statistics = RequestStatistics()
    statistics.record("assistant", Outcome.ANSWERED)
    async with node(valkey.url, "one", statistics=statistics) as one, node(valkey.url) as two:
        one.count_served("ward", 100)

        async def whole() -> bool:
            return (
                await sees_one(two)()
                and (await two.served(["ward"]))["ward"] > 90
                and (await two.rates(["assistant"])).get("assistant", 0) > 0
            )

        await until(whole)
        first = await one.lease("pull", 30)
        valkey.do("FLUSHALL")
        valkey.do("FUNCTION", "FLUSH")
        valkey.do("SCRIPT", "FLUSH")
        await until(whole)
        again = await two.lease("pull", 30)
        assert again.token > first.token  # type: ignore[union-attr]


async def test_a_line_that_drops_everything_is_noticed_and_its_end_too(valkey: Server) -> None:
    async with Proxy(valkey.port).running() as line, node(valkey.url, "one"):
        async with node(f"redis://127.0.0.1:{line.port}/0", read_seconds=0.1) as two:
            await until(sees_one(two))
            line.drop = True
            await until(sees_nobody(two))
            assert await two.lease("pull", 5) is None
            two.store(REVISION, "c" * 64, b"value")
            two.changed()
            line.drop = False
            await until(sees_one(two))


async def test_a_killed_server_that_is_started_anew_is_told_everything(valkey: Server, tmp_path: Path) -> None:
    with capture_logs() as logs:

        def said_twice(event: str) -> Callable[[], Awaitable[bool]]:
            async def said() -> bool:
                return [line["event"] for line in logs].count(event) == 2

            return said

        async with node(valkey.url, "one"), node(valkey.url) as two:
            await until(sees_one(two))
            valkey.kill()
            await until(sees_nobody(two))
            assert await two.lease("pull", 5) is None
            await until(said_twice("index.lost"))
            with server(tmp_path, port=valkey.port):
                await until(sees_one(two))
                await until(said_twice("index.back"))
    events = [line["event"] for line in logs]
    assert (events.count("index.lost"), events.count("index.back")) == (2, 2)


async def test_what_a_read_only_replica_has_can_be_read(valkey: Server, tmp_path: Path) -> None:
    with server(tmp_path, "--replicaof", f"127.0.0.1 {valkey.port}") as replica:
        async with node(valkey.url, "one"), node(replica.url) as two:
            await until(lambda: _other_is_learned(two, replica))
            two.store(REVISION, "c" * 64, b"value")
            assert await two.lease("pull", 5) is None


async def _other_is_learned(index: RedisIndex, replica: Server) -> bool:
    return index.up and bool(replica.do("EXISTS", KEYS["one"].of_node)) and await sees_one(index)()


async def test_a_full_server_is_read_and_written_again_when_there_is_room(valkey: Server) -> None:
    async with node(valkey.url, "one") as one, node(valkey.url) as two:
        await until(sees_one(two))
        valkey.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
        valkey.do("CONFIG", "SET", "maxmemory", "1")
        assert await one.lease("pull", 5) is None
        assert await sees_one(two)()
        one.store(REVISION, "c" * 64, b"value")
        await asyncio.sleep(0.5)
        assert await two.cached(REVISION, "c" * 64) is None
        valkey.do("CONFIG", "SET", "maxmemory", "0")
        one.store(REVISION, "c" * 64, b"value")

        async def stored() -> bool:
            return await two.cached(REVISION, "c" * 64) == b"value"

        await until(stored)


async def test_a_primary_without_its_replicas_refuses_writes_and_is_read(valkey: Server) -> None:
    async with node(valkey.url, "one") as one, node(valkey.url) as two:
        await until(sees_one(two))
        valkey.do("CONFIG", "SET", "min-replicas-to-write", "1")
        assert await one.lease("pull", 5) is None
        assert await sees_one(two)()
        valkey.do("CONFIG", "SET", "min-replicas-to-write", "0")

        async def leased() -> bool:
            return await one.lease("pull", 5) is not None

        await until(leased)


WRONG = [("SET", "no such type"), ("RPUSH", "a list"), ("SET", b"\xff" * 20_000_000)]


@pytest.mark.parametrize("wrong", WRONG, ids=["a string", "a list", "huge"])
async def test_garbage_under_every_key_harms_nothing_and_is_replaced(valkey: Server, wrong) -> None:
    statistics = RequestStatistics()
    statistics.record("assistant", Outcome.ANSWERED)
    async with node(valkey.url, "one", statistics=statistics) as one, node(valkey.url) as two:
        one.count_served("ward", 5)
        one.store(REVISION, "c" * 64, b"value")
        await one.lease("pull", 30)

        async def whole() -> bool:
            served = (await two.served(["ward"]))["ward"] > 4
            asked = (await two.rates(["assistant"]))["assistant"] > 0
            return served and asked and await two.cached(REVISION, "c" * 64) == b"value" and await sees_one(two)()

        await until(whole)
        keys = valkey.do("KEYS", "*")
        assert len(keys) == 11
        for key in keys:
            valkey.do("DEL", key)
            valkey.do(wrong[0], key, wrong[1])
        for _ in range(3):
            await two.neighbours(STABLE)
            assert await two.cached(REVISION, "c" * 64) in (None, b"value", str(wrong[1]).encode())
            await two.served(["ward"])
            await two.rates(["assistant"])
        one.count_served("ward", 1)
        one.store(REVISION, "c" * 64, b"value")
        statistics.record("assistant", Outcome.ANSWERED)

        async def again() -> bool:
            one.count_served("ward", 1)
            one.store(REVISION, "c" * 64, b"value")
            return await whole()

        await until(again)
        assert not isinstance(await one.lease("pull", 30), LeaseHeld | None)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 60_000,
        b'{"address": 5, "revisions": {}}',
        b'{"address": "x", "revisions": {"zz": {}}}',
        b'{"address": "x", "revisions": {"' + b"a" * 64 + b'": {"held": true}}}',
        b"\xff\xfe",
        b"x" * (MOST_BYTES + 1),
    ],
)
async def test_a_node_that_talks_nonsense_is_no_neighbour(valkey: Server, said: bytes) -> None:
    async with node(valkey.url) as two:
        valkey.do("ZADD", KEYS["one"].nodes, int(time.time()), "one")
        valkey.do("SET", KEYS["one"].of_model("assistant"), said)

        async def learned() -> bool:
            return two._writer.others == ("one",)

        await until(learned)
        assert await two.neighbours(STABLE) == ()
        assert two.up


async def test_another_primary_is_found_when_sentinels_chose_one(tmp_path: Path) -> None:
    with sentinels(tmp_path) as (url, (primary, *_)):
        async with node(url, "one"), node(url) as two:
            await until(sees_one(two))
            primary.kill()
            await until(sees_nobody(two))
            await until(sees_one(two), 40)
            assert await two.lease("pull", 5)


async def test_a_cluster_without_the_branchs_slot_is_an_index_that_is_gone(tmp_path: Path) -> None:
    with cluster(tmp_path, "--cluster-require-full-coverage", "no") as (url, nodes):
        async with node(url, "one"), node(url) as two:
            await until(sees_one(two))
            (holder,) = [each for each in nodes if each.do("DBSIZE")]
            with holder.stopped():
                await until(sees_nobody(two))
                assert await two.lease("pull", 5) is None
            await until(sees_one(two), 30)
