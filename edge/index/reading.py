"""Reads on the way of a request: many in one round trip, none waited for longer than a few milliseconds.

One connection is read over. What was asked while it was busy goes together in the next round trip, so that a reader
that gave up costs no connection, and a slow server no more than one. After FAILURES_MOST failures in a row (an error,
or silence for five times as long as a read is waited for: on a busy machine a reply may just be late) nothing is asked
until a `probe` from the background finds the server quick again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from edge.index.servers import Client

Command = tuple[Any, ...]
FAILURES_MOST = 3
MAX_WAITING = 1024
MAX_COMMANDS = 1024
_SLOW_TIMES = 5
FAILURES = (RedisError, OSError, TimeoutError, ValueError, AttributeError, KeyError, IndexError, TypeError)
"""What a client raises for servers that are gone, odd or not what they say they are."""


class Reader:
    """Reads while `run` runs. Lives on one event loop."""

    def __init__(self, client: Client, seconds: float, call_seconds: float) -> None:
        """`seconds` is how long a read is waited for, `call_seconds` how long the connection is kept for a reply."""
        self._client = client
        self._seconds = seconds
        self._slow = _SLOW_TIMES * seconds
        self._call_seconds = call_seconds
        self._timer: asyncio.TimerHandle
        self._waiting: deque[tuple[Sequence[Command], asyncio.Future[list[Any] | None]]] = deque()
        self._wake = asyncio.Event()
        self._failures = 0
        self.round_trips = self.errors = 0
        self._stopping = False

    @property
    def up(self) -> bool:
        """Whether reads are asked at present."""
        return self._failures < FAILURES_MOST

    async def read(self, commands: Sequence[Command]) -> list[Any] | None:
        """A reply or an exception for each command, or None when they did not come in time."""
        if not self.up or not commands or len(self._waiting) >= MAX_WAITING:
            return None
        return await self._ask(commands, self._seconds)

    async def probe(self, command: Command) -> None:
        """Ask even when not `up`; a reply in time puts it up again."""
        await self._ask([command], self._call_seconds)  # with a connection to be made, a first one may be slow
        started = time.monotonic()
        replies = await self._ask([command], self._call_seconds)
        if replies is not None and time.monotonic() - started <= self._slow:
            self._failures = 0

    async def run(self) -> None:
        """Send what is asked, until `stop`."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._send()
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping = True
        self._wake.set()

    async def _ask(self, commands: Sequence[Command], seconds: float) -> list[Any] | None:
        future: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, future))
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None

    async def _send(self) -> None:
        asked = self._taken()
        if not asked:
            return
        self.round_trips += 1
        started = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._slow, self._silent)
        replies: list[Any] | None = None
        with suppress(*FAILURES):
            async with asyncio.timeout(self._call_seconds):
                pipeline = self._client.pipeline(transaction=False)
                for commands, _ in asked:
                    for command in commands:
                        pipeline.execute_command(*command)
                replies = await pipeline.execute(raise_on_error=False)
        self._timer.cancel()
        if replies is None:
            self.errors += 1
            self._failures += 1
        elif time.monotonic() - started < self._slow and self.up:
            self._failures = 0
        self._give(asked, replies)

    def _taken(self) -> "list[tuple[Sequence[Command], asyncio.Future[list[Any] | None]]]":
        """What still waits, as much as fits into one round trip."""
        asked: list[tuple[Sequence[Command], asyncio.Future[list[Any] | None]]] = []
        count = 0
        while self._waiting and (not asked or count + len(self._waiting[0][0]) <= MAX_COMMANDS):
            commands, future = self._waiting.popleft()
            if not future.done():
                asked.append((commands, future))
                count += len(commands)
        return asked

    def _give(
        self, asked: "list[tuple[Sequence[Command], asyncio.Future[list[Any] | None]]]", replies: list[Any] | None
    ) -> None:
        for commands, future in asked:
            own = None if replies is None else replies[: len(commands)]
            replies = None if replies is None else replies[len(commands) :]
            if not future.done():
                future.set_result(own)

    def _silent(self) -> None:
        """Nothing came for `_slow` seconds: as bad as a failure, and so is each time as long after it."""
        self.errors += 1
        self._failures += 1
        self._timer = asyncio.get_running_loop().call_later(self._slow, self._silent)
