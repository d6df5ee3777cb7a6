"""Models that the center keeps loaded for what edges pass on: within a byte budget, leased while they answer.

    lease -> (first one) room: idle models go, longest unused first -> whole file from the shelf -> worker -> answers

A stampede on a cold model loads it once. The lease is taken before anything is loaded, so a model that is wanted is
never chosen to go.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import structlog

from center.errors import HotSetFull
from center.manifests import Manifests
from center.records import Revision
from center.shelf import Shelf
from deltaic.engine.host import ModelHost, Served
from deltaic.engine.relay import LeasedWorker
from deltaic.weights.digest import Digest

_log = structlog.get_logger(__name__)

ROOM_TIMEOUT = 30.0
"""Seconds to wait until models that answer become idle."""


@dataclass(slots=True, eq=False)
class _Hot:
    """One model: wanted, loading or loaded."""

    key: str
    size: int
    leases: int = 0
    has_room: bool = False
    file: AsyncExitStack = field(default_factory=AsyncExitStack)
    loading: "asyncio.Task[None] | None" = None


class HotModels:
    """Lives on the event loop. Sizes are those of the model files, in bytes."""

    def __init__(self, host: ModelHost, shelf: Shelf, manifests: Manifests, hot_bytes: int) -> None:
        self._host = host
        self._shelf = shelf
        self._manifests = manifests
        self._hot_bytes = hot_bytes
        self._models: OrderedDict[str, _Hot] = OrderedDict()
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def lease(self, revision: Revision) -> AsyncIterator[LeasedWorker]:
        """A worker that answers with this revision, loaded first when it is cold.

        Raises HotSetFull, ChunkNotFound, ChunkDamaged, DiskFull, WorkerFailed.
        """
        hot = self._wanted(revision)
        hot.leases += 1
        try:
            if hot.loading is None:
                hot.loading = asyncio.create_task(self._load(hot, revision))
                hot.loading.add_done_callback(self._load_ended)
            # Shielded: a client that leaves must not take the model from those who wait with it.
            await asyncio.shield(hot.loading)
            async with self._host.lease(hot.key) as worker:
                yield worker
        finally:
            hot.leases -= 1
            self._freed.set()

    def serving(self) -> list[Served]:
        return self._host.serving()

    async def close(self) -> None:
        """Stop loading, stop every worker, let go of the files."""
        for hot in list(self._models.values()):
            if hot.loading:
                hot.loading.cancel()
                await asyncio.wait({hot.loading})
        await self._host.close()
        for hot in self._models.values():
            await hot.file.aclose()
        self._models.clear()

    def _wanted(self, revision: Revision) -> _Hot:
        key = str(revision.name)
        hot = self._models.setdefault(key, _Hot(key, revision.file_bytes))
        self._models.move_to_end(key)
        return hot

    async def _load(self, hot: _Hot, revision: Revision) -> None:
        try:
            await self._make_room(hot)
            digest = Digest.parse(revision.name.revision, revision.manifest_bytes)
            path = await hot.file.enter_async_context(self._shelf.lease(await self._manifests.get(digest)))
            seconds = await self._host.serve(hot.key, revision.name, path)
        except BaseException:
            self._models.pop(hot.key, None)
            self._freed.set()
            await hot.file.aclose()
            raise
        _log.info("hot.loaded", revision=hot.key, file_bytes=hot.size, seconds=round(seconds, 3))

    def _load_ended(self, loading: "asyncio.Task[None]") -> None:
        """Those who wait get the error; when all have left, nobody does, and the model may go for another."""
        if not loading.cancelled():
            loading.exception()
        self._freed.set()

    async def _make_room(self, hot: _Hot) -> None:
        """Wait until the model fits beside those that answer. One at a time, in order of arrival. Raises HotSetFull."""
        if hot.size > self._hot_bytes:
            raise HotSetFull(
                f"{hot.key} has {hot.size:,} bytes and {self._hot_bytes:,} may be hot",
                hint="raise --hot-bytes at the center, or serve the model at an edge",
            )
        try:
            async with asyncio.timeout(ROOM_TIMEOUT), self._turn:
                while hot.size > self._hot_bytes - self._used():
                    self._freed.clear()
                    if not await self._evict_one():
                        await self._freed.wait()
                hot.has_room = True
        except TimeoutError:
            raise HotSetFull(
                f"no room for {hot.key}: other models were busy for {ROOM_TIMEOUT:.0f} seconds",
                hint="try again, or raise --hot-bytes at the center",
            ) from None

    def _used(self) -> int:
        return sum(hot.size for hot in self._models.values() if hot.has_room)

    async def _evict_one(self) -> bool:
        idle = [hot for hot in self._models.values() if hot.has_room and not hot.leases and _is_loaded(hot)]
        if not idle:
            return False
        victim = idle[0]
        del self._models[victim.key]
        try:
            await self._host.release(victim.key)
        finally:
            await victim.file.aclose()
        _log.info("hot.evicted", revision=victim.key, file_bytes=victim.size)
        return True


def _is_loaded(hot: _Hot) -> bool:
    return hot.loading is not None and hot.loading.done()
