"""Walking a plan: one delta, or a chain of them with whole files in between, each kept only for the next step.

<models>/steps/     files of revisions on the way, as in a folder of model files; emptied when the update is through
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import structlog

from deltaic.errors import DeltaicError
from deltaic.store.errors import DiskFailed, DiskFull
from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry, may_pass
from deltaic.transfer.deltas.fetching import DeltaFetch, DeltaOrder, KeepBlob
from deltaic.transfer.deltas.keeping import DeltaKeeper
from deltaic.transfer.errors import DeltaFailed
from deltaic.transfer.fetch import fetch_manifest
from deltaic.transfer.planning import Step
from deltaic.transfer.source import Source
from deltaic.transfer.threads import in_thread
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

_MOST_TIMES = 8
"""A revision on the way that is larger than this many times the one wanted is no sensible way."""

_Found: TypeAlias = tuple[Path, Manifest]


class DeltaWalk:
    """The deltas of one update."""

    def __init__(
        self,
        files: ModelFiles,
        source: Source,
        *,
        in_flight: int,
        memory_bytes: int,
        retry: Retry,
        on_progress: Callable[[], None],
        keeper: DeltaKeeper | None = None,
    ) -> None:
        """`source` is the node that planned. `memory_bytes` bounds how many chunks are made at once; 0 does not."""
        self._files = files
        self._source = source
        self._in_flight = in_flight
        self._memory_bytes = memory_bytes
        self._retry = retry
        self._on_progress = on_progress
        self._keeper = keeper
        self._before_wire_bytes = 0
        self._between: ModelFiles | None = None
        self._fetch: DeltaFetch | None = None

    @property
    def resumed_bytes(self) -> int:
        return self._fetch.resumed_bytes if self._fetch else 0

    @property
    def reused_bytes(self) -> int:
        return self._fetch.reused_bytes if self._fetch else 0

    @property
    def made_bytes(self) -> int:
        """Bytes of the wanted file that the last delta made."""
        return self._fetch.made_bytes if self._fetch else 0

    @property
    def wire_bytes(self) -> int:
        """Bytes that the line carried for all deltas, and for the manifests of what is in between."""
        return self._before_wire_bytes + (self._fetch.wire_bytes if self._fetch else 0)

    async def walk(self, steps: Sequence[Step], staging: Staging) -> None:
        """Take these deltas in turn, the last one into `staging`, which then may still lack chunks.

        A delta that is no good is logged and left. Raises only what chunks would meet too: a lost line, a full disk.
        """
        try:
            await self._walk(steps, staging)
        except (DiskFull, DiskFailed):
            raise
        except (DeltaicError, OSError) as error:
            if isinstance(error, DeltaicError) and may_pass(error):
                raise
            _log.warning("delta.left", revision=staging.manifest.revision, error=str(error), next="chunks")
            if self._between is not None:
                await in_thread(remove_steps, self._files)  # chunks may need the room

    async def _walk(self, steps: Sequence[Step], staging: Staging) -> None:
        if len(steps) > 1 and staging.missing:
            self._between = await in_thread(ModelFiles, steps_folder(self._files))
            for step in steps[:-1]:
                try:
                    await self._make_between(step, _MOST_TIMES * staging.size)
                except (DiskFull, DiskFailed) as error:
                    raise DeltaFailed(f"no room for a revision on the way: {error.message}") from error
        keep = self._keeper.begin(steps[-1], staging.manifest) if self._keeper else None
        fetch = self._fetch = self._new_fetch(staging, keep.blob if keep else _forget)
        try:
            await fetch.reuse()
            if staging.missing:
                index = await fetch.make(self._order(steps[-1]))
                if keep:
                    await keep.finish(index)
        finally:
            if keep:
                await keep.close()

    async def _make_between(self, step: Step, most_bytes: int) -> None:
        """A whole file of a revision on the way. Raises DeltaFailed when the delta does not make all of it."""
        assert self._between is not None, "there is a folder for what is in between"
        if self._find(step.target.hex):
            return
        manifest, wire_bytes = await fetch_manifest([self._source], step.target, retry=self._retry)
        self._before_wire_bytes += wire_bytes
        if manifest.size > most_bytes:
            raise DeltaFailed(f"{manifest.revision}, on the way, has {manifest.size:,} bytes")
        staging = await in_thread(self._between.stage, manifest)
        fetch = self._new_fetch(staging, _forget)
        try:
            if staging.missing:
                await fetch.make(self._order(step))
            if staging.missing:
                raise DeltaFailed(f"{len(staging.missing)} chunks of {manifest.revision}, on the way, were not made")
            await in_thread(staging.commit)
        finally:
            self._before_wire_bytes += fetch.wire_bytes
            await in_thread(staging.close)

    def _new_fetch(self, staging: Staging, keep: KeepBlob) -> DeltaFetch:
        return DeltaFetch(
            staging,
            [self._source],
            in_flight=self._in_flight,
            retry=self._retry,
            on_progress=self._on_progress,
            keep=keep,
        )

    def _order(self, step: Step) -> DeltaOrder:
        found = self._find(step.source.hex) if step.source is not None else None
        if found is None or step.delta is None:
            raise DeltaFailed(f"the plan takes a delta from {step.source}, which is not here")
        path, manifest = found
        makers = os.cpu_count() or 1
        if self._memory_bytes and step.memory_bytes:
            makers = max(1, min(makers, self._memory_bytes // step.memory_bytes))
        return DeltaOrder(step.delta, path, manifest.file_digest, makers)

    def _find(self, hex_: str) -> _Found | None:
        for files in (self._files, self._between):
            if files is not None:
                path, manifest = files.path(hex_), files.manifest(hex_)
                if path is not None and manifest is not None:
                    return path, manifest
        return None


def steps_folder(files: ModelFiles) -> Path:
    """Where revisions on the way rest."""
    return files.folder / "steps"


def remove_steps(files: ModelFiles) -> None:
    """Delete what earlier chains left, if anything. Blocks. Raises DiskFailed, StagingBusy."""
    folder = steps_folder(files)
    if folder.is_dir():
        between = ModelFiles(folder)
        for hex_ in {*between.unfinished(), *(manifest.digest.hex for manifest in between.revisions())}:
            between.remove(hex_)


async def _forget(_digest: object, _data: object) -> None:
    """Keeps nothing."""
