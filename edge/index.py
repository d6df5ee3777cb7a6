"""The index of a branch, in Redis or Valkey: what each edge holds, has loaded, has in use, and was asked.

    deltaic:{BRANCH}:                   the braces are a Redis Cluster hash tag: one branch, one slot
    ├── node:NODE              hash    role, version, started, written (seconds since the epoch)     NODE_TTL
    ├── node:NODE:held         set     revisions complete and verified on its disk                   NODE_TTL
    ├── node:NODE:serving      hash    revision -> the channel or revision that it is loaded for     NODE_TTL
    ├── node:NODE:leases       hash    revision -> requests that use it at this moment               NODE_TTL
    ├── holders:MODEL          zset    node -> second until which it says that it answers for MODEL  NODE_TTL
    └── requests:MODEL:MINUTE  hash    NODE:answered, NODE:forwarded, NODE:failed -> count           REQUESTS_TTL

It is an index, never the truth. Each node writes only what it knows of itself, and always as absolute values: a write
may be lost, repeated or flushed away, and the next one makes it whole. A node that finds its own key gone writes
everything again. Nothing on the way of a request waits for a write; the one read there is bounded by READ_SECONDS.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from edge.errors import IndexUnreachable
from edge.statistics import RequestStatistics

_log = structlog.get_logger(__name__)

NODE_TTL = 15
REQUESTS_TTL = 7200
RECONCILE_SECONDS = 3.0
READ_SECONDS = 0.05
_COALESCE_SECONDS = 0.1
_CALL_SECONDS = 1.0
_START_SECONDS = 3.0
_Field = bytes | bytearray | memoryview | str | int | float
_Fields = dict[_Field, _Field]
_FAILURES = (RedisError, OSError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What a node shows of itself; revisions by their full names."""

    held: frozenset[str] = frozenset()
    serving: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, int] = field(default_factory=dict)
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Keys:
    """The tree above, for one node of one branch."""

    branch: str
    node: str

    def of_node(self, part: str = "") -> str:
        return f"deltaic:{{{self.branch}}}:node:{self.node}" + (f":{part}" if part else "")

    def holders(self, model: str) -> str:
        return f"deltaic:{{{self.branch}}}:holders:{model}"

    def requests(self, model: str, minute: int) -> str:
        return f"deltaic:{{{self.branch}}}:requests:{model}:{minute}"


class Index:
    """Mirrors one node into the index while `running()`."""

    def __init__(self, url: str, keys: Keys, statistics: RequestStatistics, *, embedded: bool = False) -> None:
        """`embedded` says that the server at `url` is ours. Raises IndexUnreachable for a URL that no server has."""
        self._shown = "the embedded Valkey" if embedded else _without_secrets(url)
        self._keys = keys
        self._entry: Callable[[], NodeEntry] = NodeEntry
        self._statistics = statistics
        self._started = time.time()
        self._changed = asyncio.Event()
        self._up = True
        self._stopping = False
        self.errors = 0
        """Calls that failed since the start."""
        try:
            self._client = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=_CALL_SECONDS,
                socket_connect_timeout=_CALL_SECONDS,
                retry=Retry(NoBackoff(), 0),
                client_name="deltaic-edge",
            )
        except ValueError as error:
            raise IndexUnreachable(f"not the address of a Redis server: {self._shown}: {error}", hint=_HINT) from None

    @asynccontextmanager
    async def running(self, entry: Callable[[], NodeEntry]) -> AsyncIterator["Index"]:
        """Write at once, at every change and every RECONCILE_SECONDS; `entry` gives the truth at that moment.

        Raises IndexUnreachable, at start only.
        """
        self._entry = entry
        try:
            await self._check()
            mirror = asyncio.create_task(self._mirror(), name="index-mirror")
            try:
                yield self
            finally:
                # Asked, not cancelled: a cancellation that meets a finished send is lost inside the client library.
                self._stopping = True
                self._changed.set()
                await mirror
                await self._withdraw()
        finally:
            await self._client.aclose()

    def changed(self) -> None:
        """The node's entry or its counts are new: write soon. Never waits, never fails."""
        self._changed.set()

    async def neighbours(self, model: str) -> tuple[str, ...]:
        """Other nodes of the branch that say they answer for `model`; nothing when the index is slow or gone."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await self._client.zrangebyscore(self._keys.holders(model), time.time(), "+inf")
        except _FAILURES:
            self.errors += 1
            return ()
        return tuple(str(node) for node in found if node != self._keys.node)

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._client.ping()
        except _FAILURES as error:
            cause = str(error).rstrip(".") or type(error).__name__
            raise IndexUnreachable(f"the index at {self._shown} does not answer: {cause}", hint=_HINT) from None

    async def _mirror(self) -> None:
        while not self._stopping:
            self._changed.clear()
            await self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(_COALESCE_SECONDS)

    async def _write(self) -> None:
        """One write; a failure is said once, and so is the end of it."""
        try:
            if not await self._client.exists(self._keys.of_node()):
                self._statistics.mark_all_changed()
            await self._write_all()
        except _FAILURES as error:
            if self._up:
                _log.warning("index.lost", index=self._shown, cause=str(error), effect="none: answers go on")
            self._up = False
            self.errors += 1
            self._statistics.mark_all_changed()
        else:
            if not self._up:
                _log.info("index.back", index=self._shown)
            self._up = True

    async def _write_all(self) -> None:
        entry, now = self._entry(), time.time()
        async with self._client.pipeline(transaction=True) as write:
            about: _Fields = {"role": "edge", "version": version("deltaic"), "started": self._started, "written": now}
            self._put_hash(write, "", about)
            self._put_hash(write, "serving", _fields(entry.serving))
            self._put_hash(write, "leases", _fields(entry.leases))
            self._put_held(write, entry, now)
            for bucket, counts in self._statistics.take_changed().items():
                key = self._keys.requests(bucket.model, bucket.minute)
                write.hset(key, mapping={f"{self._keys.node}:{outcome}": count for outcome, count in counts.items()})
                write.expire(key, REQUESTS_TTL)
            await write.execute()

    def _put_hash(self, write: Pipeline, part: str, values: _Fields) -> None:
        write.delete(self._keys.of_node(part))
        if values:
            write.hset(self._keys.of_node(part), mapping=values)
            write.expire(self._keys.of_node(part), NODE_TTL)

    def _put_held(self, write: Pipeline, entry: NodeEntry, now: float) -> None:
        write.delete(self._keys.of_node("held"))
        if entry.held:
            write.sadd(self._keys.of_node("held"), *entry.held)
            write.expire(self._keys.of_node("held"), NODE_TTL)
        for model in entry.models:
            holders = self._keys.holders(model)
            write.zadd(holders, {self._keys.node: now + NODE_TTL})
            write.zremrangebyscore(holders, "-inf", now)
            write.expire(holders, NODE_TTL)

    async def _withdraw(self) -> None:
        """A node that stops in order does not wait for its keys to expire."""
        names = [self._keys.of_node(part) for part in ("", "held", "serving", "leases")]
        with suppress(*_FAILURES):
            async with asyncio.timeout(_CALL_SECONDS), self._client.pipeline(transaction=True) as write:
                write.delete(*names)
                for model in self._entry().models:
                    write.zrem(self._keys.holders(model), self._keys.node)
                await write.execute()


_HINT = "start it, correct index_url, or leave index_url empty to use the embedded one"


def _fields(values: Mapping[str, str] | Mapping[str, int]) -> _Fields:
    """The same mapping, in the invariant type that redis-py asks for."""
    return {name: value for name, value in values.items()}  # noqa: C416  # dict() would keep the narrow type


def _without_secrets(url: str) -> str:
    """The address without user and password, for logs and messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
