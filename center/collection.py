"""Collection: revisions that nothing keeps leave the catalog, then blobs that no revision needs leave the store.

    claims are noted -> model by model: keepers, removal with audit entry -> what the kept ones need, by their manifests
    -> every stored blob: needed, recent, or deleted

The order is the safety: a catalog row goes before the blobs that it needs, so a crash at any point leaves blobs without
rows and never a row without blobs. docs/formats/layout.md argues why a publish under way loses nothing either.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import structlog

from center.errors import NeedsUnknown, StoreShared
from center.library import Fate, Library
from center.records import Revision
from center.shelf import Shelf
from deltaic.errors import DeltaicError
from deltaic.runtime.threads import in_thread
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.digest_set import DigestSet
from deltaic.store.errors import ChunkDamaged, ChunkNotFound, CollectionBusy
from deltaic.store.listing import StoredBlob
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

_BATCH = 256
"""Blobs looked at together. Whoever claims waits while they are deleted."""
_BLOBS_A_NEWS = 4_096
_FIRST_AFTER_HOURS = 1.0


@dataclass(slots=True)
class Tally:
    """What a collection has found and done so far. Blobs are chunks and manifests."""

    kept_revisions: int = 0
    kept_blobs: int = 0
    kept_bytes: int = 0
    recent_blobs: int = 0
    recent_bytes: int = 0
    freed_revisions: int = 0
    freed_blobs: int = 0
    freed_bytes: int = 0
    freed_names: list[str] = field(default_factory=list)
    """The hexadecimal digits of the revisions freed."""

    @property
    def blobs(self) -> int:
        return self.kept_blobs + self.recent_blobs + self.freed_blobs

    def count(self, fate: Fate) -> None:
        if fate.is_kept:
            self.kept_revisions += 1
        else:
            self.freed_revisions += 1
            self.freed_names.append(fate.revision.name.hex)

    def to_progress(self) -> registry_pb2.CollectProgress:
        return registry_pb2.CollectProgress(
            blobs=self.blobs, freed_blobs=self.freed_blobs, freed_bytes=self.freed_bytes
        )

    def to_summary(self, seconds: float) -> registry_pb2.CollectSummary:
        return registry_pb2.CollectSummary(
            kept_revisions=self.kept_revisions,
            kept_blobs=self.kept_blobs,
            kept_bytes=self.kept_bytes,
            recent_blobs=self.recent_blobs,
            recent_bytes=self.recent_bytes,
            freed_revisions=self.freed_revisions,
            freed_blobs=self.freed_blobs,
            freed_bytes=self.freed_bytes,
            seconds=seconds,
        )


OtherNeeds: TypeAlias = Callable[[], AsyncIterator[Sequence[Digest]]]
"""Blobs that something beside manifests refers to; asked once the revisions are decided on, and never deleted."""

News: TypeAlias = "registry_pb2.RevisionFate | registry_pb2.CollectProgress | registry_pb2.CollectSummary"


def as_response(news: News) -> registry_pb2.CollectGarbageResponse:
    """The message that carries a piece of news."""
    if isinstance(news, registry_pb2.RevisionFate):
        return registry_pb2.CollectGarbageResponse(revision=news)
    if isinstance(news, registry_pb2.CollectProgress):
        return registry_pb2.CollectGarbageResponse(progress=news)
    return registry_pb2.CollectGarbageResponse(summary=news)


class Collector:
    """Lives on the event loop; one collection at a time. Memory: one manifest, some hundred blobs, a bounded set."""

    def __init__(
        self,
        library: Library,
        chunks: ObjectChunkStore,
        shelf: Shelf,
        folder: Path,
        grace_seconds: float,
        others: Sequence[OtherNeeds] = (),
    ) -> None:
        """`folder` takes a temporary file of about 45 bytes for each blob that is kept."""
        self._library = library
        self._chunks = chunks
        self._shelf = shelf
        self._folder = folder
        self._grace_seconds = grace_seconds
        self._others = others
        self._running = False

    async def collect(self, *, dry_run: bool, actor: str) -> AsyncGenerator[News, None]:
        """Say the fate of every revision, then how far the deletion is, a summary last. A dry run changes nothing.

        Raises CollectionBusy, StoreShared, NeedsUnknown, StoreUnreachable, StoreRefused, DiskFull, DatabaseBusy.
        """
        if self._running:
            raise CollectionBusy("another collection is under way", hint="wait until it has ended")
        self._running = True
        started, before = time.monotonic(), time.time() - self._grace_seconds
        tally = Tally()
        try:
            await self._require_own_store()
            with await in_thread(DigestSet, self._folder) as kept:
                async with self._chunks.collecting(kept):
                    async with aclosing(self._decide(kept, tally, None if dry_run else actor)) as fates:
                        async for fate in fates:
                            yield fate
                    for needs in self._others:
                        async for digests in needs():
                            await in_thread(kept.add, [digest.sha256 for digest in digests])
                    async with aclosing(self._sweep(kept, tally, before, dry_run=dry_run)) as news:
                        async for progress in news:
                            yield progress
                if not dry_run:
                    await self._clear_shelf(kept, tally)
        finally:
            self._running = False
        seconds = time.monotonic() - started
        _log.info(
            "collection.done",
            dry_run=dry_run,
            actor=actor,
            freed_revisions=tally.freed_revisions,
            freed_blobs=tally.freed_blobs,
            freed_bytes=tally.freed_bytes,
            seconds=round(seconds, 3),
        )
        yield tally.to_summary(seconds)

    async def endlessly(self, hours: float, actor: str) -> None:
        """Collect every so many hours, for the first time after one at most, so that restarts do not put it off."""
        await asyncio.sleep(3600 * min(hours, _FIRST_AFTER_HOURS))
        while True:
            try:
                async with aclosing(self.collect(dry_run=False, actor=actor)) as news:
                    async for _ in news:
                        pass
            except DeltaicError as error:
                _log.warning("collection.failed", message=str(error))
            await asyncio.sleep(3600 * hours)

    async def sign(self) -> None:
        """Leave word in the store that this catalog uses it. Raises DiskFull, StoreUnreachable, StoreRefused."""
        await self._chunks.sign(await in_thread(self._library.catalog_id))

    async def _require_own_store(self) -> None:
        """What other catalogs need would be garbage to this one."""
        if others := await self._chunks.signed_by() - {await in_thread(self._library.catalog_id)}:
            raise StoreShared(
                f"another catalog uses {self._chunks.place}: {', '.join(sorted(others))}",
                hint="give each center a chunk store of its own; if that catalog is no more, delete its object below "
                "catalogs/ there",
            )

    async def _decide(
        self, kept: DigestSet, tally: Tally, actor: str | None
    ) -> AsyncGenerator[registry_pb2.RevisionFate, None]:
        """Remove what nothing keeps, when there is an actor to do it; note what the others need."""
        for model in await in_thread(self._library.models):
            if actor is None:
                fates = await in_thread(self._library.judge, model)
            else:
                fates = await in_thread(self._library.collect, model, actor=actor)
            for fate in fates:
                tally.count(fate)
                if fate.is_kept:
                    await in_thread(kept.add, await self._needs(fate.revision))
                elif actor is not None:
                    _log.info("revision.collected", revision=str(fate.revision.name), actor=actor)
                yield fate.to_proto()

    async def _needs(self, revision: Revision) -> list[bytes]:
        """The hashes of all blobs of a revision. Raises NeedsUnknown: without it nothing may be deleted."""
        digest = Digest.parse(revision.name.revision, revision.manifest_bytes)
        try:
            manifest = await in_thread(Manifest.parse, await self._chunks.read(digest))
        except (ChunkNotFound, ChunkDamaged, BadManifest) as error:
            raise NeedsUnknown(
                f"nothing was deleted, since the manifest of {revision.name} cannot be read: {error.message}",
                hint="publish that revision again, or let no channel or tag name it, then collect",
            ) from None
        return [digest.sha256, *(each.sha256 for each in manifest.unique)]

    async def _sweep(
        self, kept: DigestSet, tally: Tally, before: float, *, dry_run: bool
    ) -> AsyncGenerator[registry_pb2.CollectProgress, None]:
        batch: list[StoredBlob] = []
        told = 0
        async with aclosing(self._chunks.blobs()) as blobs:
            async for blob in blobs:
                batch.append(blob)
                if len(batch) == _BATCH:
                    await self._free(batch, kept, tally, before, dry_run=dry_run)
                    batch = []
                    if tally.blobs - told >= _BLOBS_A_NEWS:
                        told = tally.blobs
                        yield tally.to_progress()
        await self._free(batch, kept, tally, before, dry_run=dry_run)
        yield tally.to_progress()

    async def _free(
        self, batch: list[StoredBlob], kept: DigestSet, tally: Tally, before: float, *, dry_run: bool
    ) -> None:
        unneeded = await in_thread(kept.absent, [blob.digest.sha256 for blob in batch])
        old = [blob for blob in batch if blob.digest.sha256 in unneeded and blob.modified < before]
        freed = old if dry_run or not old else await self._chunks.delete_unclaimed(old, before)
        gone = {blob.digest for blob in freed}
        for blob in batch:
            size = blob.digest.size
            if blob.digest in gone:
                tally.freed_blobs += 1
                tally.freed_bytes += size
            elif blob.digest.sha256 in unneeded:
                tally.recent_blobs += 1
                tally.recent_bytes += size
            else:
                tally.kept_blobs += 1
                tally.kept_bytes += size

    async def _clear_shelf(self, kept: DigestSet, tally: Tally) -> None:
        """Whole files of what was collected; another model may have the same file, and whoever uses one keeps it."""
        names = [bytes.fromhex(each) for each in tally.freed_names]
        for each in await in_thread(kept.absent, names):
            await self._shelf.forget(each.hex())
