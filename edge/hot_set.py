"""The models that this edge keeps loaded, inside a budget of bytes.

Models of followed channels are pinned. A revision that is held but not loaded is loaded when it is asked for, and the
least recently used of those makes room, unless a request uses it: a lease is counted before anything is awaited, so a
model in use is never a victim. The leases here are the truth; the index shows a copy.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.host import ModelHost, Served
from deltaic.engine.relay import LeasedWorker
from deltaic.names import ChannelName, RevisionName
from deltaic.store.model_files import ModelFiles
from edge.errors import HotSetFull, NotHeldHere

_log = structlog.get_logger(__name__)
_FAILURE_SECONDS = 30.0
"""A revision whose worker does not start is not tried again for this long: each try costs memory and seconds."""


class HotSet:
    """Decides what the host has loaded. Everything runs on one event loop."""

    def __init__(
        self,
        host: ModelHost,
        files: ModelFiles,
        budget: int,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`budget` in bytes of memory; `on_change` hears of loads, evictions and leases; `clock` gives seconds."""
        self._host = host
        self._files = files
        self._budget = budget
        self._on_change = on_change
        self._clock = clock
        self._keys: dict[str, RevisionName] = {}
        self._pinned: set[str] = set()
        self._leases: Counter[RevisionName] = Counter()
        self._used_at: dict[RevisionName, float] = {}
        self._reserved: dict[RevisionName, int] = {}
        self._loads: dict[RevisionName, asyncio.Task[None]] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._failures: dict[RevisionName, tuple[float, WorkerFailed]] = {}
        self._making_room = asyncio.Lock()

    @property
    def budget(self) -> int:
        """Bytes of memory for loaded models."""
        return self._budget

    def loaded(self, key: str) -> bool:
        """Whether a channel or revision has a worker now."""
        return self._revision_of(key) is not None

    def keys(self) -> dict[str, RevisionName]:
        """What is loaded: channel or revision name -> revision."""
        return dict(self._keys)

    def serving(self) -> list[Served]:
        """What the host answers with now."""
        return self._host.serving()

    def leases(self) -> dict[RevisionName, int]:
        """Requests that use, or wait for, a revision at this moment."""
        return {revision: count for revision, count in self._leases.items() if count}

    async def pin(self, channel: ChannelName, revision: RevisionName, path: Path, size: int) -> float:
        """Switch a followed channel to a revision, whose file has `size` bytes; seconds that it took.

        The old one serves until then.

        Goes beyond the budget if it must: an operator chose the channel. Raises WorkerFailed.
        """
        key = str(channel)
        self._pinned.add(key)
        async with self._room(revision, size) as fits:
            if not fits:
                _log.warning("hot_set.over_budget", channel=key, budget_bytes=self._budget)
            seconds = await self._host.serve(key, revision, path)
        self._keys[key] = revision
        self._failures.pop(revision, None)
        await self._let_the_channel_keep(revision)
        self._on_change()
        return seconds

    async def unpin(self, channel: ChannelName) -> None:
        """The channel is no longer followed: stop answering it, once what it answers now is answered."""
        key = str(channel)
        self._pinned.discard(key)
        if self._keys.pop(key, None) is not None:
            self._on_change()
            await self._host.release(key)

    async def resize(self, budget: int) -> None:
        """Another budget of bytes; what is free to go makes room at once."""
        self._budget = budget
        async with self._making_room:
            await self._evict_until_fits()

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[LeasedWorker]:
        """Use the worker of a channel or revision that is loaded. Raises NotServed."""
        async with self._counted(self._revision_of(key)), self._host.lease(key) as leased:
            yield leased

    @asynccontextmanager
    async def load(self, revision: RevisionName) -> AsyncIterator[LeasedWorker]:
        """Use a revision, loading it first where needed; requests that wait for one load share it.

        A caller that goes away leaves the load to the others. Raises NotHeldHere, HotSetFull, WorkerFailed.
        """
        async with self._counted(revision):
            if not self.loaded(str(revision)):
                await asyncio.shield(self._loading(revision))
            async with self._host.lease(revision) as leased:
                yield leased

    def let_go_of_removed(self) -> None:
        """Stop using revisions whose files are gone, once what they answer now is answered.

        A worker outlives its file, but nothing could start it again. Channels are left to their next `pin`.
        """
        for key, revision in list(self._keys.items()):
            if key not in self._pinned and self._files.path(revision.hex) is None:
                del self._keys[key]
                self._used_at.pop(revision, None)
                _log.info("hot_set.removed", revision=str(revision))
                task = asyncio.create_task(self._host.release(key), name=f"release {revision}")
                self._releases.add(task)
                task.add_done_callback(self._releases.discard)
                self._on_change()

    async def close(self) -> None:
        """End the loads and releases that still run; the host stops the workers."""
        tasks = [*self._loads.values(), *self._releases]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _loading(self, revision: RevisionName) -> "asyncio.Task[None]":
        if revision not in self._loads:
            task = asyncio.create_task(self._load(revision), name=f"load {revision}")
            self._loads[revision] = task
            task.add_done_callback(lambda done: self._load_ended(revision, done))
        return self._loads[revision]

    def _load_ended(self, revision: RevisionName, task: "asyncio.Task[None]") -> None:
        del self._loads[revision]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, WorkerFailed) and revision not in self._failures:
            self._failures[revision] = (self._clock() + _FAILURE_SECONDS, error)

    async def _load(self, revision: RevisionName) -> None:
        self._check_not_failed(revision)
        path, manifest = self._files.path(revision.hex), self._files.manifest(revision.hex)
        if path is None or manifest is None:
            raise NotHeldHere(f"{revision} is not held by this edge", hint="ask the center")
        async with self._room(revision, manifest.size) as fits:
            if not fits:
                raise HotSetFull(
                    f"no room to load {revision}: pinned and busy models take the {self._budget:,} bytes there are",
                    hint="raise --hot-bytes, or follow fewer channels",
                )
            await self._host.serve(str(revision), revision, path)
        self._keys[str(revision)] = revision
        await self._let_the_channel_keep(revision)
        self.let_go_of_removed()  # its own file, when it went while it was loaded
        self._on_change()

    async def _let_the_channel_keep(self, revision: RevisionName) -> None:
        """What a followed channel keeps loaded needs no key of its own: it would outlive the channel's next switch."""
        key = str(revision)
        if key in self._keys and revision in self._pinned_revisions():
            del self._keys[key]
            await self._host.release(key)

    def _pinned_revisions(self) -> set[RevisionName]:
        return {self._keys[key] for key in self._pinned if key in self._keys}

    def _check_not_failed(self, revision: RevisionName) -> None:
        if revision in self._failures:
            until, error = self._failures[revision]
            if self._clock() < until:
                raise error
            del self._failures[revision]

    @asynccontextmanager
    async def _room(self, revision: RevisionName, size: int) -> AsyncIterator[bool]:
        """Evict until the revision fits, and keep the room until it is loaded; False when it does not fit.

        One load at a time makes room, so that two do not count on the same bytes.
        """
        try:
            async with self._making_room:
                self._reserved[revision] = size
                fits = await self._evict_until_fits()
            yield fits
        finally:
            self._reserved.pop(revision, None)

    async def _evict_until_fits(self) -> bool:
        while self._taken() > self._budget:
            victim = self._victim()
            if victim is None:
                return False
            revision = self._keys.pop(victim)
            self._used_at.pop(revision, None)
            _log.info("hot_set.evicted", revision=str(revision))
            await self._host.release(victim)
            self._on_change()
        return True

    def _victim(self) -> str | None:
        pinned = self._pinned_revisions()
        free = [
            key
            for key, revision in self._keys.items()
            if key not in self._pinned and revision not in pinned and not self._leases[revision]
        ]
        return min(free, key=lambda key: self._used_at.get(self._keys[key], 0.0), default=None)

    def _taken(self) -> int:
        """Bytes of memory of what is loaded (keys that share a worker count once) and of what is about to be."""
        measured = {served.revision: served.memory_bytes for served in self._host.serving()}
        coming = sum(size for revision, size in self._reserved.items() if revision not in measured)
        return sum(measured.values()) + coming

    def _revision_of(self, key: str) -> RevisionName | None:
        if key in self._keys:
            return self._keys[key]
        return next((revision for revision in self._keys.values() if str(revision) == key), None)

    @asynccontextmanager
    async def _counted(self, revision: RevisionName | None) -> AsyncIterator[None]:
        """Count one lease, at once: nothing is awaited between a caller's decision and the count."""
        if revision is None:
            yield
            return
        self._leases[revision] += 1
        self._used_at[revision] = self._clock()
        self._on_change()
        try:
            yield
        finally:
            self._leases[revision] -= 1
            self._used_at[revision] = self._clock()
            self._on_change()
