"""The making of one model file: from nothing, or from what an earlier attempt left, to a whole and verified file.

Synchronous, and safe when several threads write different chunks at once; callers on an event loop use
`asyncio.to_thread`. See docs/formats/layout.md for what a crash at each point leaves.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from deltaic.store.disk import disk_errors, disk_full, free_bytes, sync_folder, write_whole
from deltaic.store.errors import ChunkDamaged, FileMismatch, ForeignChunk, StagingIncomplete, StagingLost
from deltaic.store.part_file import PartFile
from deltaic.store.places import Place, RevisionPaths, read_place
from deltaic.store.revision_lock import RevisionLock
from deltaic.store.running_hash import RunningHash
from deltaic.weights.digest import Buffer, Digest
from deltaic.weights.manifest import Chunk, Manifest

_log = structlog.get_logger(__name__)


class Staging:
    """A revision's growing file, exclusively ours until `close`; what it holds at close is found again next time."""

    def __init__(
        self,
        paths: RevisionPaths,
        manifest: Manifest,
        lock: RevisionLock,
        *,
        locate: Callable[[Digest], Sequence[Place]],
        on_commit: Callable[[Manifest], None],
    ) -> None:
        """Called by `ModelFiles.stage`. Takes over the lock; hashes what is there. Raises DiskFull, DiskFailed."""
        self.manifest = manifest
        self._paths = paths
        self._lock = lock
        self._locate = locate
        self._on_commit = on_commit
        self._state = threading.Lock()
        self._missing: dict[Digest, Chunk] = {}
        with disk_errors(paths.folder, lambda: manifest.size):
            self._file = PartFile(paths.part, manifest.size)
        self._hash = RunningHash(self._file, manifest.chunks, self._is_written)
        try:
            self._examine()
            self._check_room()
        except BaseException:
            self._file.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.manifest.size

    @property
    def missing(self) -> list[Chunk]:
        """What is still to be written, in file order, each digest once. Empty means ready to commit."""
        with self._state:
            return list(self._missing.values())

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched: each missing digest once."""
        with self._state:
            return sum(digest.size for digest in self._missing)

    @property
    def verified_bytes(self) -> int:
        """Bytes of the file that are in place and verified."""
        return self.size - self._unwritten_bytes()

    def write(self, chunk: Chunk, data: Buffer) -> None:
        """See `write_pieces`."""
        self.write_pieces(chunk, [data])

    def write_pieces(self, chunk: Chunk, pieces: Sequence[Buffer]) -> None:
        """Verify a chunk, given in the pieces that it came in, and put it wherever the file has it.

        Raises DigestMismatch, ForeignChunk, DiskFull, DiskFailed, StagingClosed.
        """
        offsets = self.manifest.unique.get(chunk.digest)
        if offsets is None:
            raise ForeignChunk(f"{chunk.digest} is no chunk of {self.manifest.revision}")
        chunk.digest.verify_pieces(pieces)
        with self._state:
            if chunk.digest not in self._missing:
                return
        with disk_errors(self._paths.folder, self._unwritten_bytes):
            for offset in offsets:
                self._file.write_pieces(pieces, offset)
            with self._state:
                self._missing.pop(chunk.digest, None)
            if self._file.tells_changes:  # else commit hashes everything anyway
                self._hash.advance()

    def reuse(self, on_progress: Callable[[int], None] | None = None) -> int:
        """Copy what other files on this disk have, hashed again; the bytes that need no fetching for it.

        `on_progress` is told the bytes of each chunk. Raises DiskFull, DiskFailed, StagingClosed.
        """
        reused = 0
        for chunk in self.missing:
            for place in self._locate(chunk.digest):
                data = read_place(place, chunk.digest)
                if data is None:
                    _log.warning("reuse.unusable", file=place.path.name, offset=place.offset, chunk=str(chunk.digest))
                    continue
                self.write(chunk, data)
                reused += len(data)
                if on_progress is not None:
                    on_progress(len(data))
                break
        return reused

    def commit(self) -> Path:
        """Hash the whole file, make it durable, give it its name; the path of the finished file.

        Raises StagingIncomplete, StagingLost, ChunkDamaged (then `missing` names what must be written again),
        FileMismatch, DiskFull, DiskFailed, StagingClosed. After an error the growing file is still there.
        """
        if absent := self.missing:
            raise StagingIncomplete(
                f"{len(absent)} chunks of {self.manifest.revision} are missing", hint="fetch them, then commit"
            )
        with disk_errors(self._paths.folder, lambda: len(self.manifest.data)):
            if not self._file.is_named():
                raise StagingLost(f"{self._paths.part} was replaced while it grew", hint="stage the revision again")
            self._file.restore_size()
            self._file.sync()
            self._check_whole()
            write_whole(self._paths.manifest, self.manifest.data)
            self._paths.part.rename(self._paths.model)
            sync_folder(self._paths.folder)
        self._file.close()
        self._on_commit(self.manifest)
        return self._paths.model

    def close(self) -> None:
        """Let go of the file and of the lock, once no thread is writing. Closing twice is nothing."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _examine(self) -> None:
        """Find by hashing what is in place; copy within the file what is in one of its places but not in all."""
        found: dict[Digest, set[int]] = {}
        with disk_errors(self._paths.folder, lambda: self.size):
            for chunk in self._file.verified(self.manifest.chunks):
                found.setdefault(chunk.digest, set()).add(chunk.offset)
            missing: dict[Digest, Chunk] = {}
            for chunk in self.manifest.chunks:
                held = found.get(chunk.digest)
                if held is None:
                    missing.setdefault(chunk.digest, chunk)
                elif chunk.offset not in held:
                    self._file.write(self._file.read(min(held), chunk.digest.size), chunk.offset)
        with self._state:
            self._missing = missing

    def _check_whole(self) -> None:
        """What was hashed while the file grew counts, unless somebody else has touched the file."""
        wanted = self.manifest.file_digest.sha256
        if self._hash.finish() == wanted and not self._file.touched():
            return
        self._file.watch()
        self._hash.start_over()
        if self._hash.finish() == wanted:
            return
        self._hash.start_over()
        self._examine()
        if absent := self.missing:
            raise ChunkDamaged(
                f"{len(absent)} chunks of {self._paths.part.name} changed after they were written",
                hint="fetch them again; if this repeats, check the disk and the memory",
            )
        raise FileMismatch(
            f"all chunks of {self.manifest.revision} are right but the whole is not {self.manifest.file_digest}",
            hint="the manifest contradicts itself: publish the model again",
        )

    def _is_written(self, digest: Digest) -> bool:
        with self._state:
            return digest not in self._missing

    def _unwritten_bytes(self) -> int:
        with self._state:
            return sum(digest.size * len(self.manifest.unique[digest]) for digest in self._missing)

    def _check_room(self) -> None:
        """Say at the start what would else be said after hours."""
        needed = min(self._unwritten_bytes(), self._file.unallocated_bytes())
        if needed > free_bytes(self._paths.folder):
            raise disk_full(self._paths.folder, needed)
