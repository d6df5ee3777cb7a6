"""What a branch's index costs a request, on a real server: how long its operations take, and requests while it is down.

`make bench-branch` calls `operations` and `throughput`; both start a Valkey server of their own and stop it.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from deltaic.names import ChannelName, RevisionName
from edge.index.embedded_valkey import EmbeddedValkey
from edge.index.entries import NodeEntry, RevisionEntry
from edge.index.index import READ_SECONDS
from edge.index.keys import Keys
from edge.index.redis_index import AnswerBounds, IndexServer, RedisIndex
from edge.statistics import Outcome, RequestStatistics

NODES = 3
MODELS = 24
_KEY = "c" * 64


@dataclass(frozen=True, slots=True)
class Operations:
    """Milliseconds that a request waits for the index (one gathered read), and round trips of a request.

    `late` is the share of reads that were given up. `server_calls` are commands that the server ran for one request,
    background writes included.
    """

    p50_ms: float
    p99_ms: float
    round_trips: float
    late: float
    server_calls: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Requests a second; `down` is with the server stopped."""

    up: float
    down: float

    @property
    def down_share(self) -> float:
        return self.down / self.up


async def operations(requests: int = 1_000, every: float = 0.01) -> Operations:
    """Time the reads of a request (neighbours, a cached answer, two tenants' shares, gathered), one each `every` s."""
    async with _branch() as (index, server):
        trips, calls = index.round_trips, await _commands(server)
        times = []
        for _ in range(requests):
            started = time.perf_counter()
            await _request(index)
            times.append(time.perf_counter() - started)
            await asyncio.sleep(every)
        times.sort()
        return Operations(
            p50_ms=times[len(times) // 2] * 1000,
            p99_ms=times[len(times) * 99 // 100] * 1000,
            round_trips=(index.round_trips - trips) / requests,
            late=sum(took >= READ_SECONDS for took in times) / requests,
            server_calls=(await _commands(server) - calls) / requests,
        )


async def throughput(
    request: Callable[[RedisIndex], Awaitable[Any]] | None = None, seconds: float = 3.0, clients: int = 8
) -> Throughput:
    """Requests a second with the index up, then with its server stopped (SIGSTOP), after it was noticed.

    `request` is what a request does with the index beside the answer's own work; by default only the reads.
    """
    asked = request or _request
    async with _branch() as (index, server):
        up = await _rate(index, asked, seconds, clients)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            down = await _rate(index, asked, seconds, clients)
        finally:
            os.kill(server.pid, signal.SIGCONT)
    return Throughput(up, down)


async def _request(index: RedisIndex) -> None:
    """What one request asks of the index and tells it."""
    await asyncio.gather(
        index.neighbours(ChannelName("model-1", "stable")),
        index.cached(_revision(1), _KEY),
        index.served(["ward", "kitchen"]),
    )
    index.count_served("ward", 10)
    index.changed()


async def _rate(
    index: RedisIndex, request: Callable[[RedisIndex], Awaitable[Any]], seconds: float, clients: int
) -> float:
    until, done = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await request(index)
            done += 1
            await asyncio.sleep(0)  # with the index down, nothing else lets the others on

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - started)


async def _commands(server: EmbeddedValkey) -> int:
    async with Redis.from_url(server.url) as redis:
        return int((await redis.info("stats"))["total_commands_processed"])


@asynccontextmanager
async def _branch() -> AsyncIterator[tuple[RedisIndex, EmbeddedValkey]]:
    """NODES edges that hold MODELS models each; the last one is asked."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(EmbeddedValkey(folder).running())
        indices = []
        for number in range(NODES):
            statistics = RequestStatistics()
            statistics.record("model-1", Outcome.ANSWERED)
            index = RedisIndex(
                IndexServer(server.url),
                Keys("bench", f"edge-{number}"),
                statistics,
                answers=AnswerBounds(60, 1 << 20),
            )
            await stack.enter_async_context(index.running(_entry))
            indices.append(index)
        indices[0].store(_revision(1), _KEY, b"x" * 2_000)
        async with asyncio.timeout(10):
            while not await indices[-1].cached(_revision(1), _KEY) or len(indices[-1].others) < NODES - 1:  # noqa: ASYNC110  # the server, not a task, becomes ready
                await asyncio.sleep(0.1)
        yield indices[-1], server


def _entry() -> NodeEntry:
    prefixes = tuple(f"{number:016x}" for number in range(256))
    channel = str(ChannelName("model-1", "stable"))
    shown = {_revision(number): RevisionEntry(True, (), 0, 1, 0, 4, 0.02, prefixes) for number in range(MODELS)}
    shown[_revision(1)] = RevisionEntry(True, (channel,), 1, 1, 0, 4, 0.02, prefixes)
    return NodeEntry("10.0.0.8:7410", shown)


def _revision(number: int) -> RevisionName:
    return RevisionName(f"model-{number}", f"sha256:{number:064x}")


if __name__ == "__main__":
    print(asyncio.run(operations()))
    print(asyncio.run(throughput()))
