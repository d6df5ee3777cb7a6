"""What one node writes into the index: in the background, in absolute values, only what changed or is due again."""

import time
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from redis.exceptions import ResponseError

from deltaic.names import RevisionName
from edge.index import node_json, rates
from edge.index.entries import NodeEntry
from edge.index.functions import Functions
from edge.index.index import NODE_TTL
from edge.index.keys import FENCE_TTL, NODES_TTL, REQUESTS_TTL, SERVED_TTL, Keys
from edge.index.servers import Client
from edge.index.shares import Shares
from edge.statistics import RequestStatistics

MAX_NEIGHBOURS = 64
MOST_VALUE_BYTES = 1 << 20
_MOST_PENDING_BYTES = 8 << 20
_MOST_DROPS = 1024
_MOST_DROP_CALLS = 1000
_COMMANDS_AT_ONCE = 200
_MOST_NODE_NAME = 255


class Writer:
    """Writes for one node. `others` are the nodes that wrote of late, as of the last write."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        statistics: RequestStatistics,
        shares: Shares,
        functions: Functions,
        answer_seconds: float,
        answer_bytes: int,
    ) -> None:
        self.others: tuple[str, ...] = ()
        self.most_value = min(MOST_VALUE_BYTES, answer_bytes)
        self._client = client
        self._keys = keys
        self._statistics = statistics
        self._shares = shares
        self._functions = functions
        self._answer_seconds = answer_seconds
        self._answer_bytes = answer_bytes
        self._started = time.time()
        self._shown: dict[str, bytes] = {}
        self._shown_at = 0.0
        self._about: dict[str, Any] = {}
        self._values: deque[tuple[RevisionName, str, bytes]] = deque()
        self._pending = 0
        self._drops: deque[RevisionName] = deque(maxlen=_MOST_DROPS)

    def store(self, revision: RevisionName, key: str, value: bytes) -> None:
        """Write it with the next write; what does not fit is left out."""
        if len(value) <= self.most_value and self._pending + len(value) <= _MOST_PENDING_BYTES:
            self._values.append((revision, key, value))
            self._pending += len(value)

    def drop(self, revision: RevisionName) -> None:
        self._drops.append(revision)

    def lease_arguments(self, seconds: float) -> list[Any]:
        return [self._keys.node, max(1, round(seconds * 1000)), FENCE_TTL * 1000]

    async def write(self, entry: NodeEntry, due: float) -> None:
        """Everything that changed, and what was written longer than `due` seconds ago. Raises RedisError, OSError."""
        if not await self._client.execute_command("EXISTS", self._keys.of_node):
            self.lost()
        await self._learn_others()  # first: a replica that takes no writes can be read
        await self._send(self._node_commands(entry, due))
        await self._send(self._count_commands())
        await self._answers()

    def lost(self) -> None:
        """What was written may be gone: give everything again."""
        self._shown, self._shown_at = {}, 0.0
        self._statistics.mark_all_changed()
        self._shares.mark_all_changed()

    async def withdraw(self) -> None:
        """A node that stops in order does not wait for its keys to expire."""
        await self._send([("DEL", self._keys.of_node, *self._shown), ("ZREM", self._keys.nodes, self._keys.node)])

    def _node_commands(self, entry: NodeEntry, due: float) -> list[tuple[Any, ...]]:
        shown = {self._keys.of_model(model): text for model, text in node_json.written(entry).items()}
        again = time.monotonic() - self._shown_at >= due
        gone = [key for key in self._shown if key not in shown]
        commands: list[tuple[Any, ...]] = [("DEL", *gone)] if gone else []
        commands += [
            ("SET", key, text, "EX", NODE_TTL) for key, text in shown.items() if again or self._shown.get(key) != text
        ]
        if again:
            commands += self._about_commands(entry.address)
            self._shown_at = time.monotonic()
        self._shown = shown
        return commands

    def _about_commands(self, address: str) -> list[tuple[Any, ...]]:
        own, now = self._keys.of_node, time.time()
        about = {
            "role": "edge",
            "version": version("deltaic"),
            "address": address,
            "started": self._started,
            "written": now,
        }
        return [
            ("DEL", own),
            ("HSET", own, *(part for pair in about.items() for part in pair)),
            ("EXPIRE", own, NODE_TTL),
            ("ZADD", self._keys.nodes, now, self._keys.node),
            ("ZREMRANGEBYSCORE", self._keys.nodes, "-inf", now - NODES_TTL),
            ("EXPIRE", self._keys.nodes, NODES_TTL),
        ]

    def _count_commands(self) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = []
        for model in sorted({bucket.model for bucket in self._statistics.take_changed()}):
            counted = rates.written(self._statistics.minutes(model))
            commands.append(("SET", self._keys.requests(model), counted, "EX", REQUESTS_TTL))
        for (window, tenant), tokens in self._shares.take_changed().items():
            commands.append(("SET", self._keys.served(window, tenant), tokens, "EX", SERVED_TTL))
        return commands

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """In transactions of a bounded size. A key of another type than ours is garbage: it goes, and we fail once."""
        for start in range(0, len(commands), _COMMANDS_AT_ONCE):
            part = commands[start : start + _COMMANDS_AT_ONCE]
            pipeline = self._client.pipeline(transaction=True)
            for command in part:
                pipeline.execute_command(*command)
            replies = await pipeline.execute(raise_on_error=False)
            for command, reply in zip(part, replies, strict=True):
                if not isinstance(reply, Exception):
                    continue
                if "WRONGTYPE" in str(reply):
                    await self._client.execute_command("UNLINK", command[1])
                raise reply

    async def _learn_others(self) -> None:
        try:
            found = await self._client.execute_command("ZREVRANGE", self._keys.nodes, 0, MAX_NEIGHBOURS)
        except ResponseError:  # garbage, which the writes replace
            found = []
        names = [name.decode("utf-8", "replace") for name in found if len(name) <= _MOST_NODE_NAME]
        self.others = tuple(sorted(name for name in names if name != self._keys.node))

    async def _answers(self) -> None:
        while self._values:
            revision, key, value = self._values.popleft()
            self._pending -= len(value)
            keys = [self._keys.answer(revision, key), self._keys.answers_of(revision), self._keys.answers]
            lasts = max(1, round(self._answer_seconds * 1000))
            arguments = [self._keys.base, revision.hex, key, value, lasts, self._answer_bytes]
            await self._functions.call("answer_store", keys, arguments)
        while self._drops:
            await self._drop(self._drops.popleft())

    async def _drop(self, revision: RevisionName) -> None:
        """Unless a neighbour has it still: then its answers are good there."""
        for node in self.others:
            text = await self._client.execute_command(
                "GETRANGE", self._keys.of_model(revision.model, node), 0, node_json.MOST_BYTES
            )
            if revision.hex.encode() in text:
                return
        for _ in range(_MOST_DROP_CALLS):
            keys = [self._keys.answers_of(revision), self._keys.answers]
            if not await self._functions.call("answer_drop", keys, [self._keys.base, revision.hex]):
                return
