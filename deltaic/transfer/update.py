"""One update of one channel: from the revision that it names to a complete, verified file."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from deltaic.errors import DeltaicError
from deltaic.store.errors import DiskFailed, DiskFull
from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.deltas.keeping import DeltaKeeper
from deltaic.transfer.deltas.walking import DeltaWalk, remove_steps
from deltaic.transfer.fetch import Fetch, FetchStats, fetch_manifest
from deltaic.transfer.planning import Limits, Step
from deltaic.transfer.progress import Reached
from deltaic.transfer.source import Source
from deltaic.transfer.supplier import Supplier
from deltaic.transfer.threads import in_thread
from deltaic.transfer.turns import NoTurns, Turns
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

_MOST_ASKED = 3
USUAL_LIMITS = Limits(memory_bytes=256 << 20, wait_seconds=300.0)
"""What a node spends on deltas unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Held:
    """A complete file that was verified by this process."""

    path: Path
    manifest: Manifest


class Obtainer:
    """Makes files of revisions: takes what is here, fetches what is not. Each revision by one task at a time."""

    def __init__(
        self,
        files: ModelFiles,
        upstream: Supplier,
        sources: Sequence[Source],
        *,
        in_flight: int,
        retry: Retry,
        limits: Limits = USUAL_LIMITS,
        keeper: DeltaKeeper | None = None,
        turns: Turns | None = None,
    ) -> None:
        """`upstream` plans, and deltas come from it; chunks from any of `sources`, of which it is the first.

        `sources` may change; each update uses those that there are when it begins to fetch. Deltas that
        came are kept by `keeper`. `turns` say when to fetch, and who is nearer than all of them.
        """
        self.files = files
        self._upstream = upstream
        self._sources = sources
        self._in_flight = in_flight
        self._retry = retry
        self._limits = limits
        self._keeper = keeper
        self._turns = turns or NoTurns()
        self._walks = 0
        self._locks: dict[str, asyncio.Lock] = {}
        self._verified: set[str] = set()

    async def held(self, state: ChannelState) -> Held | None:
        """The file of a revision if it is here and whole, hashed again unless this process did so before.

        A damaged file is turned back into a growing one, so that fetching repairs its bad chunks only.
        """
        hex_ = state.revision.hex
        manifest, path = self.files.manifest(hex_), self.files.path(hex_)
        if manifest is None or path is None:
            return None
        if hex_ not in self._verified:
            if damaged := await in_thread(self.files.damaged, hex_):
                _log.error("update.file_damaged", file=str(path), chunks=len(damaged), first_offset=damaged[0].offset)
                await in_thread(self.files.reopen, hex_)
                return None
            self._verified.add(hex_)
        return Held(path, manifest)

    async def obtain(self, state: ChannelState, progress: "UpdateMeter") -> Held:
        """The file of a revision, fetched where it is not here. Raises DeltaicError; what arrived is kept."""
        hex_ = state.revision.hex
        async with self._locks.setdefault(hex_, asyncio.Lock()):
            if held := await self.held(state):
                progress.whole(held.manifest)
                return held
            return await self._obtain_in_turn(state, progress)

    async def _obtain_in_turn(self, state: ChannelState, progress: "UpdateMeter") -> Held:
        """From whoever is near and has all of it; else over the line, while nobody beside us does the same."""
        for last in (False, False, True):
            async with self._turns.turn(state, lambda: progress.wire_bytes) as near:
                try:
                    held = await self._bring(state, progress, near)
                except DeltaicError as error:
                    # A disk that is full is no fault of a source, and chunks from elsewhere need the same room.
                    if last or not near or isinstance(error, DiskFull | DiskFailed):
                        raise
                    self._turns.failed(near)
                    _log.info("update.not_from_near", revision=str(state.revision), error=error.message)
                    continue
                self._verified.add(state.revision.hex)
                self._turns.obtained(state)
                return held
        raise AssertionError("the last attempt returns or raises")

    async def _bring(self, state: ChannelState, progress: "UpdateMeter", near: Sequence[Supplier]) -> Held:
        planner, deltas = await self._plan(state, near)
        sources = [each.source for each in near] or self._sources
        manifest, wire_bytes = await fetch_manifest(sources, state.manifest, retry=self._retry)
        progress.described(manifest, wire_bytes)
        staging = await in_thread(self.files.stage, manifest)
        try:
            try:
                await self._walk(staging, deltas, progress, planner.source)
            except DeltaicError as error:
                # Chunks from near cost little; over the line a delta is worth another attempt.
                if not near or isinstance(error, DiskFull | DiskFailed):
                    raise
                _log.info("update.delta_not_from_near", planned_by=planner.source.name, error=error.message)
            return await self._fill(staging, progress, sources)
        finally:
            await in_thread(staging.close)

    async def _plan(self, state: ChannelState, near: Sequence[Supplier]) -> tuple[Supplier, list[Step]]:
        """What deltas make of it, and who has them.

        Who is near is asked for deltas that are there: what it had to make first, its chunks bring sooner.
        """
        held = await in_thread(self.files.newest)  # from the one that came last a delta is likely to be the smallest
        if not near:
            return self._upstream, await self._upstream.plan(state, held, self._limits)
        limits = replace(self._limits, wait_seconds=0.0)
        for supplier in near[:_MOST_ASKED]:
            if deltas := await supplier.plan(state, held, limits):
                return supplier, deltas
        return near[0], []

    def removed(self, revision_hex: str) -> None:
        """The files of a revision are gone."""
        self._verified.discard(revision_hex)
        self._locks.pop(revision_hex, None)

    async def _fill(self, staging: Staging, progress: "UpdateMeter", sources: Sequence[Source]) -> Held:
        """Fetch what is still missing."""
        fetch = Fetch(staging, sources, in_flight=self._in_flight, on_progress=progress.advanced, retry=self._retry)
        progress.fetching(lambda: fetch.stats)
        await fetch.run()
        held = Held(await in_thread(staging.commit), staging.manifest)
        await self._remove_steps()
        return held

    async def _walk(self, staging: Staging, deltas: Sequence[Step], progress: "UpdateMeter", source: Source) -> None:
        """Make what deltas make, if there are any; the rest is left to chunks."""
        if not deltas:
            return
        walk = DeltaWalk(
            self.files,
            source,
            in_flight=self._in_flight,
            memory_bytes=self._limits.memory_bytes,
            retry=self._retry,
            on_progress=progress.made,
            keeper=self._keeper,
        )
        progress.walking(walk)
        self._walks += 1
        try:
            await walk.walk(deltas, staging)
        finally:
            self._walks -= 1

    async def _remove_steps(self) -> None:
        """What chains left; not while another update may be on its way through it."""
        if self._walks:
            return
        try:
            await in_thread(remove_steps, self.files)
        except DeltaicError as error:
            _log.warning("update.steps_not_removed", error=error.message)


class UpdateMeter:
    """The numbers of one update, read while it runs, as `deltaic.v1.UpdateProgress` defines them.

    Every byte of the file was reused, made by a delta or fetched, so the three are the whole of it in the end, and the
    manifest over.
    """

    def __init__(self, on_advance: Callable[[], None]) -> None:
        self._on_advance = on_advance
        self._manifest_bytes = 0
        self._manifest_wire_bytes = 0
        self._stats: Callable[[], FetchStats] | None = None
        self._walk: DeltaWalk | None = None
        self._held_bytes = 0
        self._repeated_bytes = 0
        self.full_bytes = 0

    def whole(self, manifest: Manifest) -> None:
        """The file was here."""
        self.full_bytes = self._held_bytes = manifest.size

    def described(self, manifest: Manifest, wire_bytes: int) -> None:
        """The manifest has arrived."""
        self.full_bytes = manifest.size
        self._repeated_bytes = manifest.size - sum(digest.size for digest in manifest.unique)
        self._manifest_bytes, self._manifest_wire_bytes = manifest.digest.size, wire_bytes

    def walking(self, walk: DeltaWalk) -> None:
        """Deltas begin to arrive."""
        self._walk = walk

    def fetching(self, stats: Callable[[], FetchStats]) -> None:
        """Chunks begin to arrive."""
        self._stats = stats

    def made(self) -> None:
        """One chunk more was copied or made by a delta."""
        self._on_advance()

    def advanced(self, _done: int, _total: int) -> None:
        """One chunk more."""
        self._on_advance()

    @property
    def reused_bytes(self) -> int:
        """Bytes of the file that need no fetching: held whole, left by an earlier attempt, copied, or said twice.

        What deltas made is in place when chunks begin to arrive, and is no part of it.
        """
        walk, stats = self._walk, self._stats() if self._stats else None
        if stats is None and walk is None:
            return self._held_bytes
        by_walk = walk.resumed_bytes + walk.reused_bytes if walk else 0
        by_fetch = stats.resumed_bytes + stats.reused_bytes - self.delta_bytes if stats else 0
        return self._repeated_bytes + max(by_walk, by_fetch)

    @property
    def delta_bytes(self) -> int:
        """Bytes of the file that deltas made."""
        return self._walk.made_bytes if self._walk else 0

    @property
    def fetched_bytes(self) -> int:
        return self._manifest_bytes + (self._stats().fetched_bytes if self._stats else 0)

    @property
    def reached(self) -> Reached:
        """All of them at once."""
        arriving = self._stats().arriving_bytes if self._stats else 0
        chunks = self.fetched_bytes - self._manifest_bytes
        return Reached(
            self.full_bytes,
            self.reused_bytes,
            chunks,
            self._manifest_bytes,
            self.wire_bytes,
            arriving,
            self.delta_bytes,
        )

    @property
    def wire_bytes(self) -> int:
        by_walk = self._walk.wire_bytes if self._walk else 0
        return self._manifest_wire_bytes + by_walk + (self._stats().wire_bytes if self._stats else 0)
