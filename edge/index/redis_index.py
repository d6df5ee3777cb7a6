"""The index of a branch in Redis or Valkey (edge/index/keys.py draws it): this node shown there, the others read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from deltaic.names import ChannelName, RevisionName
from edge.errors import IndexUnreachable
from edge.index import node_json, rates
from edge.index.entries import Lease, LeaseHeld, Neighbour, NodeEntry
from edge.index.functions import Functions
from edge.index.index import READ_SECONDS
from edge.index.keys import Keys
from edge.index.neighbours import matching
from edge.index.rates import rate, recent
from edge.index.reading import FAILURES, Reader
from edge.index.secret import IndexSecret
from edge.index.servers import client_maker, close, without_secrets
from edge.index.shares import Shares, windows
from edge.index.writing import Writer
from edge.statistics import RequestStatistics

_log = structlog.get_logger(__name__)

RECONCILE_SECONDS = 3.0
_DOWN_SECONDS = 0.5
_COALESCE_SECONDS = 0.1
_CALL_SECONDS = 1.0
_START_SECONDS = 3.0
_STOP_SECONDS = 3.0
_MOST_LEASE_NAME = 255
_COUNT_DIGITS = 15
_HINT = "start it, correct index_url, or leave index_url empty to use the embedded one"


@dataclass(frozen=True, slots=True)
class IndexServer:
    """Where the index is. `embedded` says that the server is this edge's own; `read_seconds` bounds a read."""

    url: str
    ca: Path | None = None
    embedded: bool = False
    read_seconds: float = READ_SECONDS


@dataclass(frozen=True, slots=True)
class AnswerBounds:
    """How long stored values last, and the most bytes of all of them in the branch; 0 stores none."""

    seconds: float = 3600.0
    most_bytes: int = 0


class RedisIndex:
    """A `BranchIndex`; mirrors one node while `running()`."""

    def __init__(
        self,
        server: IndexServer,
        keys: Keys,
        statistics: RequestStatistics,
        *,
        secret: IndexSecret | None = None,
        answers: AnswerBounds | None = None,
    ) -> None:
        """Raises IndexUnreachable for an address that no server has."""
        self._shown = "the embedded Valkey" if server.embedded else without_secrets(server.url)
        self._keys = keys
        self._secret = secret or IndexSecret()
        self._statistics = statistics
        self._shares = Shares()
        self._changed = asyncio.Event()
        self._up = True
        self._writes = 0
        self._stopping = False
        try:
            make = client_maker(server.url, server.ca, seconds=_CALL_SECONDS)
            self._clients = (make(), make())
        except (ValueError, OSError) as error:
            raise IndexUnreachable(f"not the address of a Redis server: {self._shown}: {error}", hint=_HINT) from None
        self._reader = Reader(self._clients[0], server.read_seconds, _CALL_SECONDS)
        self._functions = Functions(self._clients[1])
        bounds = answers or AnswerBounds()
        self._writer = Writer(
            self._clients[1], keys, statistics, self._shares, self._functions, bounds.seconds, bounds.most_bytes
        )

    @property
    def up(self) -> bool:
        return self._reader.up

    @property
    def others(self) -> tuple[str, ...]:
        """Nodes of the branch that wrote of late."""
        return self._writer.others

    @property
    def round_trips(self) -> int:
        """Reads that were sent on behalf of requests, and writes in the background, since the start."""
        return self._reader.round_trips + self._writes

    @asynccontextmanager
    async def running(self, entry: Callable[[], NodeEntry]) -> AsyncIterator["RedisIndex"]:
        """Write at once, at every change and every RECONCILE_SECONDS; `entry` gives the truth at that moment.

        Raises IndexUnreachable, at start only.
        """
        try:
            await self._check()
            reading = asyncio.create_task(self._reader.run(), name="index-reader")
            mirror = asyncio.create_task(self._mirror(entry), name="index-mirror")
            try:
                yield self
            finally:
                # Asked, not cancelled: a cancellation that meets a finished send is lost inside the client library.
                self._stopping = True
                self._changed.set()
                await mirror
                self._reader.stop()
                await reading
                with suppress(*FAILURES):
                    async with asyncio.timeout(_STOP_SECONDS):
                        await self._writer.withdraw()
        finally:
            for client in self._clients:
                with suppress(*FAILURES):
                    await close(client)

    def changed(self) -> None:
        """The node's entry or its counts are new: write soon. Never waits, never fails."""
        self._changed.set()

    async def neighbours(self, target: ChannelName | RevisionName) -> tuple[Neighbour, ...]:
        others = self._writer.others
        names = [self._keys.of_model(target.model, node) for node in others]
        found: list[Neighbour] = []
        for node, text in zip(others, await self._strings(names, node_json.MOST_BYTES), strict=False):
            with suppress(ValueError):  # BadName is one
                found += matching(target, node, node_json.read(target.model, text))
        return tuple(found)

    async def rates(self, models: Collection[str]) -> Mapping[str, float]:
        """Of this node alone while the index is not known."""
        now = time.time()
        counted = {model: recent(self._statistics.minutes(model), now) for model in models}
        asked = [(model, node) for model in models for node in self._writer.others]
        replies = await self._strings([self._keys.requests(model, node) for model, node in asked], rates.MOST_BYTES)
        for (model, _), reply in zip(asked, replies, strict=False):
            with suppress(ValueError):
                counted[model] += recent(rates.read(reply), now)
        return {model: rate(count, now) for model, count in counted.items()}

    def count_served(self, tenant: str, tokens: int) -> None:
        self._shares.count(self._secret.tenant(tenant), tokens)
        self._changed.set()

    async def served(self, tenants: Collection[str]) -> Mapping[str, float]:
        """Of this node alone while the index is not known."""
        totals = {tenant: self._shares.of(self._secret.tenant(tenant)) for tenant in tenants}
        cells = [(tenant, *window) for tenant in tenants for window in windows(time.time())]
        asked = [(*cell, node) for cell in cells for node in self._writer.others]
        names = [self._keys.served(window, self._secret.tenant(tenant), node) for tenant, window, _, node in asked]
        replies = await self._strings(names, _COUNT_DIGITS)
        for (tenant, _, part, _), reply in zip(asked, replies, strict=False):
            totals[tenant] += part * int(reply) if reply.isdigit() else 0.0
        return totals

    async def cached(self, revision: RevisionName, key: str) -> bytes | None:
        for value in await self._strings([self._keys.answer(revision, key)], self._writer.most_value):
            return value or None
        return None

    def store(self, revision: RevisionName, key: str, value: bytes) -> None:
        self._writer.store(revision, key, value)
        self._changed.set()

    def drop_revision(self, revision: RevisionName) -> None:
        self._writer.drop(revision)
        self._changed.set()

    async def lease(self, name: str, seconds: float) -> Lease | LeaseHeld | None:
        """Not on the way of a request: waits up to a second for the server. Raises ValueError for a long name."""
        if len(name) > _MOST_LEASE_NAME:
            raise ValueError(f"a lease is named in at most {_MOST_LEASE_NAME} characters")
        keys = [self._keys.lease(name), self._keys.fence]
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                taken, who, left = await self._functions.call("lease_take", keys, self._writer.lease_arguments(seconds))
                if taken:
                    return Lease(name, int(who))
                return LeaseHeld(name, who.decode(), max(0, left) / 1000)
        except FAILURES:
            return None

    async def release(self, lease: Lease) -> None:
        with suppress(*FAILURES):
            async with asyncio.timeout(_CALL_SECONDS):
                await self._functions.call(
                    "lease_release", [self._keys.lease(lease.name)], [self._keys.node, str(lease.token)]
                )

    async def _strings(self, names: Sequence[str], most: int) -> list[bytes]:
        """Values of at most so many bytes, empty for all else; nothing when the index is not known."""
        replies = await self._reader.read([("GETRANGE", name, 0, most) for name in names])
        return [each if isinstance(each, bytes) and len(each) <= most else b"" for each in replies or ()]

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._clients[1].execute_command("EXISTS", self._keys.of_node)
        except FAILURES as error:
            cause = str(error).rstrip(".") or type(error).__name__
            raise IndexUnreachable(f"the index at {self._shown} does not answer: {cause}", hint=_HINT) from None

    async def _mirror(self, entry: Callable[[], NodeEntry]) -> None:
        while not self._stopping:
            self._changed.clear()
            await self._write(entry())
            if not self._reader.up:
                await self._reader.probe(("EXISTS", self._keys.of_node))
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_SECONDS if self._reader.up else _DOWN_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(_COALESCE_SECONDS)

    async def _write(self, entry: NodeEntry) -> None:
        """One write; a failure is said once, and so is the end of it."""
        self._writes += 1
        try:
            async with asyncio.timeout(3 * _CALL_SECONDS):
                await self._writer.write(entry, RECONCILE_SECONDS)
        except FAILURES as error:
            if self._up:
                _log.warning("index.lost", index=self._shown, cause=str(error), effect="none: answers go on")
            self._up = False
            self._writer.lost()
        else:
            if not self._up:
                _log.info("index.back", index=self._shown)
            self._up = True
