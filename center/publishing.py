"""Publishing: from an uploaded manifest to a revision in the catalog.

    names and request id -> manifest -> all blobs here, durable -> whole file from the stored chunks -> vetting, layout
    -> trial load in a worker process -> catalog row and audit entry

Nothing is visible before the last step, and the last step is one transaction, during which nothing is collected. One
publish at a time: the trial load takes the memory of a whole model.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from center.catalog import Catalog
from center.errors import BadRequest, BlobsMissing, LayoutMismatch
from center.manifests import Manifests
from center.records import Revision
from center.shelf import Shelf
from deltaic.errors import InvalidArgument
from deltaic.names import ModelName, RevisionName
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.errors import ChunkNotFound, FileMismatch
from deltaic.transfer.threads import in_thread
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.layout import LayoutSegment
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

MAX_DESCRIPTION = 1_000

TrialLoad: TypeAlias = Callable[[RevisionName, Path], Awaitable[None]]
"""Loads a file once and decodes a token. Raises TrialLoadFailed (with the line that says why), TrialLoadUnfinished."""


@dataclass(frozen=True, slots=True)
class Order:
    """A checked request to publish."""

    request_id: str
    name: RevisionName
    manifest: Digest
    description: str
    actor: str

    @classmethod
    def of(cls, *, request_id: str, model: str, manifest: Digest, description: str, actor: str) -> "Order":
        """Raises BadRequest, BadName."""
        try:
            canonical_id = str(uuid.UUID(request_id))
        except ValueError:
            raise BadRequest("the request id is not a UUID", hint="make a new UUID for every publish") from None
        if len(description) > MAX_DESCRIPTION:
            raise BadRequest(f"a description of {len(description)} characters", hint=f"write at most {MAX_DESCRIPTION}")
        name = RevisionName(ModelName.parse(model).model, str(manifest))
        return cls(canonical_id, name, manifest, description, actor)


class Publisher:
    """Lives on the event loop; blocking work happens in threads."""

    def __init__(
        self, catalog: Catalog, chunks: ObjectChunkStore, manifests: Manifests, shelf: Shelf, trial_load: TrialLoad
    ) -> None:
        self._catalog = catalog
        self._chunks = chunks
        self._manifests = manifests
        self._shelf = shelf
        self._trial_load = trial_load
        self._turn = asyncio.Lock()

    async def publish(self, order: Order) -> Revision:
        """The revision, new or as it was. A revision that is in the catalog is not examined again.

        Raises RequestIdReused, BlobsMissing, BadManifest, NotGGUF, Truncated, BadLayout, LayoutMismatch,
        TrialLoadFailed, TrialLoadUnfinished, ChunkDamaged, DiskFull.
        """
        async with self._turn:
            answered = await in_thread(self._catalog.published, order.request_id, order.name)
            if answered:
                return answered
            if not await in_thread(self._catalog.holds, order.name):
                await self._examine(order)
            manifest = await self._manifest(order.manifest)
            revision = Revision(order.name, order.manifest.size, manifest.size, 0, order.description)
            # From this last look until the revision is in the catalog, nothing is deleted from the store.
            async with self._chunks.claiming([*manifest.unique, order.manifest]) as missing:
                _require_all(missing, order, manifest)
                published = await in_thread(
                    self._catalog.publish, revision, request_id=order.request_id, actor=order.actor
                )
        _log.info("revision.published", revision=str(order.name), file_bytes=manifest.size, actor=order.actor)
        return published

    async def _examine(self, order: Order) -> None:
        manifest = await self._manifest(order.manifest)
        _require_all(await self._chunks.claim([*manifest.unique, order.manifest]), order, manifest)
        await self._chunks.make_durable([*manifest.unique, order.manifest])
        try:
            async with self._shelf.lease(manifest) as path:
                await in_thread(check_file, manifest, path)
                await self._trial_load(order.name, path)
        except FileMismatch as error:
            raise BadManifest(error.message, hint=error.hint) from None
        except InvalidArgument:
            await self._shelf.discard(manifest)
            raise

    async def _manifest(self, digest: Digest) -> Manifest:
        try:
            return await self._manifests.get(digest)
        except ChunkNotFound:
            raise BlobsMissing(
                f"the manifest {digest} is not here", hint="upload it, then publish again", missing="1"
            ) from None


def _require_all(missing: Sequence[Digest], order: Order, manifest: Manifest) -> None:
    if missing:
        raise BlobsMissing(
            f"{len(missing)} of {len(manifest.unique) + 1} blobs of {order.name} are not here",
            hint="upload them, then publish again",
            missing=str(len(missing)),
        )


def check_file(manifest: Manifest, path: Path) -> None:
    """Vet a whole file and hold its layout against its manifest. Blocks.

    Raises NotGGUF, Truncated, BadLayout, LayoutMismatch.
    """
    layout = read_layout(path)
    described = tuple(
        LayoutSegment(each.kind, each.name, each.ggml_type, each.shape, each.offset, each.length)
        for each in manifest.file.segments
    )
    if layout.architecture != manifest.file.architecture:
        raise LayoutMismatch(
            f"the manifest says architecture {manifest.file.architecture!r}, the file {layout.architecture!r}",
            hint="build the manifest from this very file",
        )
    for ours, theirs in zip(layout.segments, described, strict=False):
        if ours != theirs:
            raise LayoutMismatch(
                f"the manifest describes byte {ours.offset:,} as {theirs.kind} {theirs.name[:80]!r}, the file has "
                f"{ours.kind} {ours.name[:80]!r} there",
                hint="build the manifest from this very file",
            )
    if len(layout.segments) != len(described):
        raise LayoutMismatch(
            f"the manifest has {len(described)} segments, the file {len(layout.segments)}",
            hint="build the manifest from this very file",
        )
