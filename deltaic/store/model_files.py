"""Model files of an edge or a device: complete files that llama.cpp can map, growing ones, and an index of both.

    <folder>/<hex>.gguf       a complete, verified file; hex is the SHA-256 of its manifest, the revision
    <folder>/<hex>.manifest   the exact bytes of its manifest
    <folder>/<hex>.part       a growing file
    <folder>/<hex>.lock       locked while somebody stages, repairs or removes the revision

Bytes rest once: the file that answers requests is the file that serves peers. The index lives in memory and is built
from the manifests, so it cannot disagree with them.
"""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import structlog

from deltaic.store.disk import disk_errors, make_folder, sync_folder
from deltaic.store.errors import AlreadyHeld, ChunkDamaged, ChunkNotFound, RevisionNotHeld, StagingBusy
from deltaic.store.places import Place, RevisionPaths, read_place, revisions_named_in
from deltaic.store.reading import check_range, cut
from deltaic.store.revision_lock import RevisionLock
from deltaic.store.settling import is_settled, read_complete, settle
from deltaic.store.staging import Staging
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Chunk, Manifest

_log = structlog.get_logger(__name__)


class ModelFiles:
    """Every method but `has` and `read` touches the disk and blocks: call it from a thread. Safe for many threads."""

    def __init__(self, folder: Path) -> None:
        """Create the folder when absent, settle what a crash left, index. Raises DiskFull, DiskFailed."""
        self.folder = folder.absolute()
        self._changing = threading.Lock()
        # Both are replaced, never changed, so that readers need no lock.
        self._held: dict[str, Manifest] = {}
        self._places: dict[Digest, list[Place]] = {}
        make_folder(self.folder)
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again, for what other processes did. Raises DiskFull, DiskFailed."""
        with disk_errors(self.folder, lambda: 0):
            named = revisions_named_in(self.folder)
        held: dict[str, Manifest] = {}
        for hex_ in named:
            paths = RevisionPaths(self.folder, hex_)
            manifest = read_complete(paths)
            if not is_settled(paths):
                # Whoever holds the lock is alive and will leave an order of its own.
                with suppress(StagingBusy), RevisionLock(paths):
                    manifest = settle(paths)
            if manifest is not None:
                held[hex_] = manifest
        with self._changing:
            self._index(held)

    def revisions(self) -> list[Manifest]:
        """The complete revisions, by digest."""
        return [manifest for _, manifest in sorted(self._held.items())]

    def newest(self) -> list[str]:
        """Hex of the complete revisions, the one whose file came last first."""
        age: dict[str, int] = {}
        for hex_ in self._held:
            with suppress(OSError):
                age[hex_] = RevisionPaths(self.folder, hex_).model.stat().st_mtime_ns
        return sorted(age, key=lambda hex_: (-age[hex_], hex_))

    def manifest(self, hex_: str) -> Manifest | None:
        """The manifest of a complete revision."""
        return self._held.get(hex_)

    def path(self, hex_: str) -> Path | None:
        """The file of a complete revision."""
        return RevisionPaths(self.folder, hex_).model if hex_ in self._held else None

    def unfinished(self) -> list[str]:
        """The revisions that have a growing file. Raises DiskFailed."""
        with disk_errors(self.folder, lambda: 0):
            return [hex_ for hex_ in revisions_named_in(self.folder) if RevisionPaths(self.folder, hex_).part.exists()]

    def locate(self, digest: Digest) -> list[Place]:
        """Where complete files have a blob: (path, offset) each. Its bytes are not yet verified."""
        return list(self._places.get(digest, ()))

    async def has(self, digest: Digest) -> bool:
        """See ChunkReader."""
        return digest in self._places

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        """See ChunkReader. A blob that rests in several places is damaged only when it is in all of them."""
        check_range(digest, offset, limit)
        data = await asyncio.to_thread(self._read_whole, digest)
        return cut(data, offset, limit)

    def stage(self, manifest: Manifest) -> Staging:
        """Begin, or go on with, the file of a revision. Close what you get, or use it in a `with`.

        Hashes what an earlier attempt left. Raises StagingBusy, AlreadyHeld, DiskFull, DiskFailed.
        """
        hex_ = manifest.digest.hex
        paths = RevisionPaths(self.folder, hex_)
        lock = RevisionLock(paths)
        try:
            if settle(paths) is not None:
                self._add(manifest)
                raise AlreadyHeld(f"{manifest.revision} is complete in {self.folder}", hint="use its file")
            self._drop(hex_)
            return Staging(paths, manifest, lock, locate=self.locate, on_commit=self._add)
        except BaseException:
            lock.release()
            raise

    def damaged(self, hex_: str) -> list[Chunk]:
        """Hash a complete file again; the chunks whose bytes are wrong, in file order. Raises RevisionNotHeld."""
        manifest = self._require(hex_)
        path = RevisionPaths(self.folder, hex_).model
        return [chunk for chunk in manifest.chunks if read_place(Place(path, chunk.offset), chunk.digest) is None]

    def reopen(self, hex_: str) -> Manifest:
        """Turn a complete file back into a growing one; staging it then finds only the bad chunks missing.

        A worker that has the file mapped keeps it. Raises RevisionNotHeld, StagingBusy, DiskFailed.
        """
        paths = RevisionPaths(self.folder, hex_)
        with RevisionLock(paths), disk_errors(self.folder, lambda: 0):
            manifest = self._require(hex_)
            self._drop(hex_)
            # The model first: without its manifest it would still be worth as much, a manifest alone is worth nothing.
            if paths.model.exists():
                paths.model.replace(paths.part)
            sync_folder(self.folder)
            paths.manifest.unlink(missing_ok=True)
            sync_folder(self.folder)
        return manifest

    def remove(self, hex_: str) -> None:
        """Delete all files of a revision; nothing happens when there are none. Raises StagingBusy, DiskFailed."""
        paths = RevisionPaths(self.folder, hex_)
        with RevisionLock(paths), disk_errors(self.folder, lambda: 0):
            self._drop(hex_)
            # The manifest last: a crash between leaves a manifest without a model, which the next start removes.
            for path in (paths.model, paths.part, paths.unfinished_manifest):
                path.unlink(missing_ok=True)
            sync_folder(self.folder)
            paths.manifest.unlink(missing_ok=True)
            sync_folder(self.folder)

    def _require(self, hex_: str) -> Manifest:
        if (manifest := self._held.get(hex_)) is None:
            raise RevisionNotHeld(f"no complete file of sha256:{hex_} in {self.folder}", hint="fetch the revision")
        return manifest

    def _read_whole(self, digest: Digest) -> bytes:
        places = self.locate(digest)
        for place in places:
            if (data := read_place(place, digest)) is not None:
                return data
            _log.warning("chunk.damaged", chunk=str(digest), file=place.path.name, offset=place.offset)
        if not any(place.path.exists() for place in places):
            raise ChunkNotFound(f"no chunk {digest} in {self.folder}", hint="ask another node")
        first = places[0]
        raise ChunkDamaged(
            f"chunk {digest} at byte {first.offset:,} of {first.path} no longer matches its digest",
            hint="fetch the revision again: only its damaged chunks will be transferred",
        )

    def _add(self, manifest: Manifest) -> None:
        with self._changing:
            self._index({**self._held, manifest.digest.hex: manifest})

    def _drop(self, hex_: str) -> None:
        with self._changing:
            if hex_ in self._held:
                self._index({other: manifest for other, manifest in self._held.items() if other != hex_})

    def _index(self, held: dict[str, Manifest]) -> None:
        places: dict[Digest, list[Place]] = {}
        for hex_, manifest in held.items():
            paths = RevisionPaths(self.folder, hex_)
            places.setdefault(manifest.digest, []).append(Place(paths.manifest, 0))
            for chunk in manifest.chunks:
                places.setdefault(chunk.digest, []).append(Place(paths.model, chunk.offset))
        self._held, self._places = held, places
