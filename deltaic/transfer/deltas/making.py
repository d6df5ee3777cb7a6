"""The queue in front of the encoder: each pair is made once, however many ask, and one at a time.

Whoever waits for a delta goes before what is made in the background. What does not pay, and what failed a moment ago,
is not tried again; neither harms anybody, since chunks are always there to be fetched.
"""

import asyncio
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import structlog

from deltaic.runtime.lifetime import beside
from deltaic.store.delta_records import DeltaRecord, Pair
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.store.errors import NoRoomForDelta
from deltaic.transfer.deltas.encoder_process import Encoding, run_encoder
from deltaic.transfer.deltas.likeness import most_bytes
from deltaic.transfer.errors import DeltaFailed, DeltaTooLarge
from deltaic.transfer.threads import in_thread
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

FileOf: TypeAlias = Callable[[Manifest], AbstractAsyncContextManager[Path]]
"""The whole file of a revision, for as long as the block runs. Raises DeltaicError when it cannot be had."""

_MOST_WAITING = 64
_FAILED_SECONDS = 600.0
_REMEMBERED_FAILURES = 1_000
_WORKING_FACTOR = 8
"""Making a chunk takes about this many times its bytes, beside the payload and what it reads of the source."""


@dataclass(slots=True)
class _Job:
    source: Manifest
    target: Manifest
    urgent: bool
    done: "asyncio.Future[DeltaRecord | None]" = field(repr=False)

    @property
    def pair(self) -> Pair:
        return Pair(self.source.digest, self.target.digest)


class DeltaMaker:
    """Lives on the event loop. Makes nothing outside `running()`."""

    def __init__(
        self, shelf: DeltaShelf, file_of: FileOf, *, jobs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`jobs` processes make one delta; 0 takes every core. `clock` gives seconds."""
        self._shelf = shelf
        self._file_of = file_of
        self._jobs = jobs
        self._clock = clock
        self._queue: OrderedDict[Pair, _Job] = OrderedDict()
        self._current: _Job | None = None
        self._failed: OrderedDict[Pair, float] = OrderedDict()
        self._wake = asyncio.Event()
        self._open = False
        self.encodings = 0
        """How many times the encoder was started."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make what is asked for until the block ends, which kills the encoder and answers who waits with None."""
        self._open = True
        try:
            async with beside(self._work()):
                yield
        finally:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Answer everybody who waits with None and take no more: the node is about to stop."""
        self._open = False
        for job in [*self._queue.values(), *([self._current] if self._current else [])]:
            _finish(job, None)
        self._queue.clear()

    def want(self, source: Manifest, target: Manifest) -> None:
        """Make a delta in the background, if one is worth trying and there is none."""
        self._ask(source, target, urgent=False)

    async def make(self, source: Manifest, target: Manifest, wait_seconds: float) -> DeltaRecord | None:
        """The delta of a pair, made now if there is none.

        None when it does not pay, failed, or takes longer than `wait_seconds`; it is then made all the same.
        """
        pair = Pair(source.digest, target.digest)
        if record := self._shelf.find(pair):
            return record
        job = self._ask(source, target, urgent=wait_seconds > 0)
        if job is None or wait_seconds <= 0:
            return None
        await asyncio.wait({job.done}, timeout=wait_seconds)
        return job.done.result() if job.done.done() else None

    def _ask(self, source: Manifest, target: Manifest, *, urgent: bool) -> _Job | None:
        pair = Pair(source.digest, target.digest)
        if self._current is not None and self._current.pair == pair:
            return self._current
        if job := self._queue.get(pair):
            job.urgent = job.urgent or urgent
            return job
        if (
            not self._open
            or self._shelf.find(pair)
            or not self.may_try(source, target)
            or not most_bytes(source, target)
        ):
            return None
        if len(self._queue) >= _MOST_WAITING and not self._drop_one():
            _log.warning("delta.queue_full", pair=str(pair), waiting=len(self._queue))
            return None
        job = _Job(source, target, urgent, asyncio.get_running_loop().create_future())
        self._queue[pair] = job
        self._wake.set()
        return job

    def _drop_one(self) -> bool:
        """Forget the oldest that nobody waits for."""
        for pair, job in self._queue.items():
            if not job.urgent:
                _finish(self._queue.pop(pair), None)
                return True
        return False

    def may_try(self, source: Manifest, target: Manifest) -> bool:
        """Whether it is not known that a delta does not pay, or failed a moment ago."""
        pair = Pair(source.digest, target.digest)
        failed = self._failed.get(pair)
        return not self._shelf.refused(pair) and (failed is None or self._clock() - failed > _FAILED_SECONDS)

    async def _work(self) -> None:
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            pair = next((pair for pair, job in self._queue.items() if job.urgent), next(iter(self._queue)))
            self._current = self._queue.pop(pair)
            record = await self._attempt(self._current)
            job, self._current = self._current, None
            _finish(job, record)

    async def _attempt(self, job: _Job) -> DeltaRecord | None:
        """Whatever goes wrong stays here: deltas are never needed."""
        started = self._clock()
        try:
            record = await self._encode(job)
        except DeltaTooLarge as error:
            self._shelf.refuse(job.pair)
            _log.info("delta.not_worth_it", pair=str(job.pair), reason=error.message)
        except Exception as error:  # noqa: BLE001  # see above
            self._failed[job.pair] = self._clock()
            while len(self._failed) > _REMEMBERED_FAILURES:
                self._failed.popitem(last=False)
            known = isinstance(error, (DeltaFailed, NoRoomForDelta))
            (_log.warning if known else _log.error)("delta.failed", pair=str(job.pair), error=str(error))
        else:
            seconds = round(self._clock() - started, 3)
            _log.info("delta.made", pair=str(job.pair), bytes=record.size, of=record.target_bytes, seconds=seconds)
            return record
        return None

    async def _encode(self, job: _Job) -> DeltaRecord:
        limit = min(most_bytes(job.source, job.target), self._shelf.budget_bytes)
        folder = Path(await in_thread(tempfile.mkdtemp, dir=self._shelf.making))
        try:
            async with AsyncExitStack() as stack:
                source = await stack.enter_async_context(self._file_of(job.source))
                target = await stack.enter_async_context(self._file_of(job.target))
                self.encodings += 1
                hex_ = await run_encoder(Encoding(source, target, folder, self._jobs, limit))
            record = await in_thread(_read_made, job, folder, hex_)
            await self._shelf.add(record, folder)
        finally:
            await in_thread(shutil.rmtree, folder, ignore_errors=True)
        return record


def _read_made(job: _Job, folder: Path, hex_: str) -> DeltaRecord:
    """Raises DeltaFailed when it is a delta of other files: one on the disk is not what its manifest says."""
    index = DeltaIndex.parse((folder / hex_).read_bytes())
    for said, manifest in ((index.source, job.source), (index.target, job.target)):
        if said != manifest.file_digest:
            raise DeltaFailed(f"the file of {manifest.revision} changed on the disk: it is {said}")
    return DeltaRecord(job.pair, index.digest, index.packs, job.target.size, memory_of(index))


def memory_of(index: DeltaIndex) -> int:
    """About how many bytes making one chunk takes, with the pack that it comes from."""
    pack = max((each.size for each in index.packs), default=0)
    working = max(part.source_length + _WORKING_FACTOR * part.target_length for part in index.parts)
    return pack + working


def _finish(job: _Job, record: DeltaRecord | None) -> None:
    if not job.done.done():
        job.done.set_result(record)
