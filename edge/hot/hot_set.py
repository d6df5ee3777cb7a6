"""The models that this edge keeps loaded, inside hard budgets of memory.

Models of followed channels are pinned, and so are those that the operator names. A revision that is held but not loaded
is loaded when it is asked for. Whose absence costs least makes room, unless a request uses it: a lease is counted
before anything is awaited, so a model in use is never a victim. The leases here are the truth; the index shows a copy.

Where all that could go is in use, a load waits, and after `collate` seconds the models that must make room take no
further requests: those wait in turn until theirs is loaded again. So two models that only fit one after the other are
switched by batches, and nobody is dropped.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.host import ModelHost, Served
from deltaic.engine.relay import LeasedWorker
from deltaic.errors import BadName, DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.store.model_files import ModelFiles
from edge.errors import HotSetFull, NotHeldHere
from edge.hot.failures import Failures
from edge.hot.load_costs import Load, LoadCosts, Tier
from edge.hot.needs import Needs
from edge.hot.occupancy import Occupancy
from edge.hot.page_cache import cached_share
from edge.hot.patience import Patience
from edge.hot.policy import HotPolicy, LeastExpectedCost, Model, Room, choose
from edge.hot.prefetch import likely
from edge.hot.rates import Rates

_log = structlog.get_logger(__name__)


class HotSet:
    """Decides what the host has loaded. Everything runs on one event loop."""

    def __init__(
        self,
        host: ModelHost,
        files: ModelFiles,
        budget: int,
        *,
        vram_budget: int = 0,
        needs: Needs | None = None,
        patience: Patience | None = None,
        policy: HotPolicy | None = None,
        rates: Rates | None = None,
        costs: LoadCosts | None = None,
        kept: Callable[[], frozenset[RevisionName]] = frozenset,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Budgets in bytes of memory; without `needs`, models count with the size of their files.

        `kept` says which revisions the operator pins; `policy` is told of requests as `rates` is not, unless it does so
        itself. `on_change` hears of loads, evictions and leases; `clock` and `wall` give seconds.
        """
        self._host = host
        self._files = files
        self._budget = Room(budget, vram_budget)
        self._needs = needs
        self._patience = patience or Patience()
        self.rates = rates or Rates()
        self.costs = costs or LoadCosts()
        self._policy = policy or LeastExpectedCost(self.rates)
        self._kept = kept
        self._on_change = on_change
        self._clock, self._wall = clock, wall
        self._occupancy = Occupancy(host.serving, self.costs, clock=clock, wall=wall)
        self._keys: dict[str, RevisionName] = {}
        self._pinned: set[str] = set()
        self._closing: frozenset[str] = frozenset()
        self._loads: dict[RevisionName, asyncio.Task[None]] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._failures = Failures(clock)
        self._turn = asyncio.Lock()
        self._making_room = asyncio.Lock()
        self._moved = asyncio.Event()

    def loaded(self, key: str) -> bool:
        """Whether a channel or revision has a worker now, and takes requests."""
        revision = self._revision_of(key)
        return revision is not None and str(revision) not in self._closing

    def keys(self) -> dict[str, RevisionName]:
        """What is loaded: channel or revision name -> revision."""
        return dict(self._keys)

    def serving(self) -> list[Served]:
        """What the host answers with now."""
        return self._host.serving()

    def leases(self) -> dict[RevisionName, int]:
        """Requests that use, or wait for, a revision at this moment."""
        return {revision: count for revision, count in self._occupancy.leases.items() if count}

    def models(self) -> list[Model]:
        """What is loaded, as the policy sees it."""
        return self._occupancy.models(self._keys.values(), self._pinned_revisions())

    @property
    def budget(self) -> Room:
        return self._budget

    @property
    def taken(self) -> Room:
        """Bytes that count against the budget, with those of models that are coming."""
        return self._occupancy.taken()

    async def pin(self, channel: ChannelName, revision: RevisionName, path: Path, size: int) -> float:
        """Switch a followed channel to a revision, whose file has `size` bytes; seconds that it took.

        The old one serves until then.

        Goes beyond the budget if it must: an operator chose the channel. Raises WorkerFailed.
        """
        key = str(channel)
        self._pinned.add(key)
        with self._occupancy.reserved(revision, await self._need(revision, path, size), size):
            async with self._making_room:
                fits = await self._evict_for(revision)
            if not fits:
                taken = self.taken
                _log.warning("hot_set.over_budget", channel=key, budget_bytes=self._budget.ram, taken_bytes=taken.ram)
            seconds = await self._serve(key, revision, path, size)
        old = self._keys.get(key)
        self._keys[key] = revision
        self._follow_on(revision, old)
        self._failures.forgive(revision)
        await self._let_the_channel_keep(revision)
        self._changed()
        return seconds

    async def unpin(self, channel: ChannelName) -> None:
        """The channel is no longer followed: stop answering it, once what it answers now is answered."""
        key = str(channel)
        self._pinned.discard(key)
        if key in self._keys:
            self._forget(key)
            await self._release(key)

    async def resize(self, budget: int) -> None:
        """Another budget of bytes of RAM; what is free to go makes room at once."""
        self._budget = Room(budget, self._budget.vram)
        async with self._making_room:
            await self._evict_for(None)

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[LeasedWorker]:
        """Use the worker of a channel or revision that is loaded. Raises NotServed."""
        async with self._counted(self._revision_of(key)), self._host.lease(key) as leased:
            yield leased

    @asynccontextmanager
    async def load(self, revision: RevisionName, *, wait: float | None = None) -> AsyncIterator[LeasedWorker]:
        """Use a revision, loading it first where needed; requests that wait for one load share it.

        Waits for room for `wait` seconds, by default as long as the settings say. A caller that goes away leaves the
        load to the others. Raises NotHeldHere, HotSetFull, WorkerFailed.
        """
        async with self._counted(revision):
            if not self.loaded(str(revision)):
                self._check_not_too_many(revision)
                with self._occupancy.waiting(revision):
                    await self._until_loaded(revision, self._patience.wait if wait is None else wait)
            async with self._host.lease(revision) as leased:
                yield leased

    async def prefetch(self) -> RevisionName | None:
        """Load what the operator pins, or one that is likely to be asked for and fits into free room; which."""
        if self._loads or self._occupancy.waited_for():
            return None
        absent = sorted(each for each in self._kept() if not self.loaded(str(each)) and not self._failures.recent(each))
        revision = absent[0] if absent else await self._likely()
        if revision is None:
            return None
        # What the operator pins may take the room of others; what is merely likely may not.
        task = self._loading(revision, self._clock(), evict=bool(absent))
        with suppress(DeltaicError):
            await asyncio.shield(task)
            _log.info("hot_set.prefetched", revision=str(revision), pinned=bool(absent))
            return revision
        return None

    def let_go_of_removed(self) -> None:
        """Stop using revisions whose files are gone, once what they answer now is answered.

        A worker outlives its file, but nothing could start it again. Channels are left to their next `pin`.
        """
        for key, revision in list(self._keys.items()):
            if key not in self._pinned and self._files.path(revision.hex) is None:
                _log.info("hot_set.removed", revision=str(revision))
                task = asyncio.create_task(self._release(key), name=f"release {revision}")
                self._releases.add(task)
                task.add_done_callback(self._releases.discard)
                self._forget(key)

    async def close(self) -> None:
        """End the loads and releases that still run; the host stops the workers."""
        tasks = [*self._loads.values(), *self._releases]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_loaded(self, revision: RevisionName, wait: float) -> None:
        until = self._clock() + wait
        while True:
            own = revision not in self._loads
            try:
                await asyncio.shield(self._loading(revision, until))
            except HotSetFull:
                if own or self._clock() >= until:
                    raise  # else an earlier request had less time left, and this one tries for itself
            else:
                return

    def _loading(self, revision: RevisionName, until: float, *, evict: bool = True) -> "asyncio.Task[None]":
        if revision not in self._loads:
            task = asyncio.create_task(self._load(revision, until, evict=evict), name=f"load {revision}")
            self._loads[revision] = task
            task.add_done_callback(lambda done: self._load_ended(revision, done))
        return self._loads[revision]

    def _load_ended(self, revision: RevisionName, task: "asyncio.Task[None]") -> None:
        del self._loads[revision]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, WorkerFailed):
            self._failures.add(revision, error)

    async def _load(self, revision: RevisionName, until: float, *, evict: bool) -> None:
        if failed := self._failures.recent(revision):
            raise failed
        self._failures.forgive(revision)
        path, manifest = self._files.path(revision.hex), self._files.manifest(revision.hex)
        if path is None or manifest is None:
            raise NotHeldHere(f"{revision} is not held by this edge", hint="ask the center")
        arrived, need = self._clock(), await self._need(revision, path, manifest.size)
        async with AsyncExitStack() as stack:
            async with self._turn:  # in order of arrival, so that small models do not pass a large one for ever
                if self._revision_of(str(revision)) is not None:
                    self._occupancy.loaded(revision)  # it was to make room, and did not have to
                    return
                stack.enter_context(self._occupancy.reserved(revision, need, manifest.size))
                if not await self._room_within(revision, arrived, until, evict=evict):
                    raise HotSetFull(
                        f"no room to load {revision}: it needs about {need.ram:,} bytes, and pinned and busy models "
                        f"take the {self._budget.ram:,} bytes there are",
                        hint="raise --hot-bytes, or follow or pin fewer models",
                    )
            await self._serve(str(revision), revision, path, manifest.size)
        self._keys[str(revision)] = revision
        self._occupancy.loaded(revision)
        await self._let_the_channel_keep(revision)
        self.let_go_of_removed()  # its own file, when it went while it was loaded
        self._changed()

    async def _room_within(self, revision: RevisionName, arrived: float, until: float, *, evict: bool) -> bool:
        """Wait until it fits, and tell those in its way to take no further requests; False when it does not fit."""
        try:
            while True:
                self._moved.clear()
                async with self._making_room:
                    if await self._evict_for(revision, evict=evict):
                        return True
                now = self._clock()
                in_the_way = self._in_the_way(revision)
                if now >= until or in_the_way is None:
                    return False
                if now >= arrived + self._patience.collate:
                    self._closing = in_the_way
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience.pause(now, arrived, until, self._occupancy.ages())):
                        await self._moved.wait()
        finally:
            self._closing = frozenset()

    async def _evict_for(self, revision: RevisionName | None, *, evict: bool = True) -> bool:
        """Evict until the revision fits, or what is loaded; False when it does not, and then nobody goes.

        One at a time does this.
        """
        nothing = Model("", Room(), 0.0)
        while True:
            now, loaded = self._wall(), self.models() if evict else []
            coming = nothing if revision is None else self._occupancy.coming(revision)
            free = self._budget - self._occupancy.taken(but=revision)
            choice = choose(self._policy, coming, loaded, free, now, residency=self._patience.residency)
            if not choice.victims:
                return choice.victims is not None
            going = [key for key in self._keys if key in choice.victims]
            for key in going:
                _log.info("hot_set.evicted", revision=key, for_revision=str(revision), pays=choice.pays)
                self._forget(key)
            await asyncio.gather(*(self._release(key) for key in going))

    def _in_the_way(self, revision: RevisionName) -> frozenset[str] | None:
        """Who must go for it once their requests are answered; None when even that would not make room."""
        idle = [replace(each, leased=False) for each in self.models()]
        free = self._budget - self._occupancy.taken(but=revision)
        coming, now = self._occupancy.coming(revision), self._wall()
        old = choose(self._policy, coming, idle, free, now, residency=self._patience.residency)
        if old.victims is not None:
            return frozenset(old.victims)
        some_day = choose(self._policy, coming, idle, free, now)
        return None if some_day.victims is None and not self._occupancy.others_come(revision) else frozenset()

    async def _likely(self) -> RevisionName | None:
        """Who is not loaded, fits into what is free, and is likely to be asked for."""
        free, now = self._budget - self.taken, self._wall()
        absent = []
        for name in self.rates.names():
            try:
                revision = RevisionName.parse(name)
            except BadName:  # the file that rates are kept in was changed by somebody
                continue
            path, manifest = self._files.path(revision.hex), self._files.manifest(revision.hex)
            if path is None or manifest is None or self.loaded(name) or self._failures.recent(revision):
                continue
            if manifest.size <= free.ram:  # else it need not be read
                need = await self._need(revision, path, manifest.size)
                absent.append(self._occupancy.absent(revision, need, manifest.size))
        best = likely(self.rates, absent, free, now)
        return RevisionName.parse(best.name) if best else None

    async def _serve(self, key: str, revision: RevisionName, path: Path, size: int) -> float:
        """Let the host load it, and learn from how long that took."""
        cached = await asyncio.to_thread(cached_share, path)
        seconds = await self._host.serve(key, revision, path)
        tier = Tier.PAGE_CACHE if cached > 0.5 else Tier.DISK
        self.costs.measured(Load(str(revision), size, tier, seconds))
        self._policy.loaded(self._occupancy.absent(revision, Room(size), size), self._wall())
        return seconds

    async def _need(self, revision: RevisionName, path: Path, size: int) -> Room:
        if self._needs is None:
            return Room(size)
        return await asyncio.to_thread(self._needs.of, path, revision.model, size)

    async def _release(self, key: str) -> None:
        await self._host.release(key)
        self._moved.set()

    def _forget(self, key: str) -> None:
        self._gone(self._keys.pop(key))
        self._changed()

    async def _let_the_channel_keep(self, revision: RevisionName) -> None:
        """What a followed channel keeps loaded needs no key of its own: it would outlive the channel's next switch."""
        key = str(revision)
        if key in self._keys and revision in self._pinned_by_channels():
            del self._keys[key]
            await self._host.release(key)

    def _follow_on(self, revision: RevisionName, old: RevisionName | None) -> None:
        """A channel moved: who asked for the old revision asks for the new one."""
        self._occupancy.loaded(revision)
        if old is not None and old != revision:
            self.rates.inherit(str(revision), str(old))
            self._gone(old)

    def _gone(self, revision: RevisionName) -> None:
        """A key of it is gone; unless that was not the only one, it is no longer loaded."""
        if revision not in self._keys.values():
            self._occupancy.gone(revision)
            self._policy.gone(str(revision))

    def _pinned_by_channels(self) -> set[RevisionName]:
        return {self._keys[key] for key in self._pinned if key in self._keys}

    def _pinned_revisions(self) -> set[RevisionName]:
        return self._pinned_by_channels() | self._kept()

    def _check_not_too_many(self, revision: RevisionName) -> None:
        if (waiting := self._occupancy.waiters(revision)) >= self._patience.requests:
            raise HotSetFull(
                f"{waiting} requests already wait for {revision} to be loaded", hint="try again in a while"
            )

    def _revision_of(self, key: str) -> RevisionName | None:
        if key in self._keys:
            return self._keys[key]
        return next((revision for revision in self._keys.values() if str(revision) == key), None)

    def _changed(self) -> None:
        self._moved.set()
        self._on_change()

    @asynccontextmanager
    async def _counted(self, revision: RevisionName | None) -> AsyncIterator[None]:
        """Count one lease, at once: nothing is awaited between a caller's decision and the count."""
        if revision is None:
            yield
            return
        self._occupancy.leases[revision] += 1
        self._policy.used(str(revision), self._wall())
        self._on_change()
        try:
            yield
        finally:
            self._occupancy.leases[revision] -= 1
            if not self._occupancy.leases[revision]:
                del self._occupancy.leases[revision]
            self._changed()
