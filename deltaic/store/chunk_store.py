"""Chunks of the center: one object a chunk, in a folder, in S3 (GCS, Azure), or in memory.

    <store>/chunks/ab/abcdef…      the bytes; the name is the whole SHA-256 in hexadecimal, `ab` its first two digits
    <store>/chunks/ab/abcdef…#1    a write that has not finished, or never will; never a chunk
    <store>/catalogs/…             empty; the name is that of a catalog whose revisions need chunks of this store

obstore writes a file under a `#` name and renames it, so that a chunk is there whole or not at all. It does not fsync:
`make_durable` does, and a manifest may refer only to chunks that have passed it.

Collection deletes what nothing refers to. Whoever is about to refer to blobs claims them first; `put` claims what it
stores. docs/formats/layout.md has the argument why nothing that is claimed or referred to is ever deleted.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore

from deltaic.errors import DeltaicError
from deltaic.runtime.threads import in_thread
from deltaic.store.claims import Claims
from deltaic.store.digest_set import DigestSet
from deltaic.store.disk import FULL_ERRNOS, disk_full, sync_file, sync_folder
from deltaic.store.errors import ChunkDamaged, ChunkNotFound, StoreRefused, StoreUnreachable
from deltaic.store.listing import StoredBlob, list_folder, list_objects
from deltaic.store.places import read_whole
from deltaic.store.reading import check_range, cut, verify_async
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

_QUESTIONS_AT_ONCE = 64
_SYNCS_AT_ONCE = 4
_EIO = "(os error 5)"
_CATALOGS = "catalogs"


class ObjectChunkStore:
    """A ChunkReader that can be written. Safe for many tasks, and for many processes on one store."""

    def __init__(self, store: ObjectStore) -> None:
        """Raises nothing: an unreachable store shows at its first use."""
        self._store = store
        # Only a folder needs fsync; an object store that answers has made the object durable.
        self._folder = store.prefix if isinstance(store, LocalStore) else None
        self._distrusted: set[Digest] = set()
        self._claims = Claims()

    def __repr__(self) -> str:
        return f"ObjectChunkStore({self.place})"

    async def has(self, digest: Digest) -> bool:
        """By name and size. A chunk that was found damaged counts as absent until it is put again."""
        if digest in self._distrusted:
            return False
        with self._store_errors(0):
            try:
                found = await self._store.head_async(key_of(digest))
            except FileNotFoundError:
                return False
        return found["size"] == digest.size

    async def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that `has` denies, in the order asked, each once."""
        asked = list(dict.fromkeys(digests))
        absent: list[Digest] = []
        for start in range(0, len(asked), _QUESTIONS_AT_ONCE):
            batch = asked[start : start + _QUESTIONS_AT_ONCE]
            held = await asyncio.gather(*(self.has(digest) for digest in batch))
            absent.extend(digest for digest, here in zip(batch, held, strict=True) if not here)
        return absent

    @asynccontextmanager
    async def claiming(self, digests: Iterable[Digest]) -> AsyncIterator[list[Digest]]:
        """Those that are missing, as `missing` says; the others are claimed.

        Nothing at all is deleted from the store while the block runs: it is short, and makes something refer to the
        blobs. Afterwards they are kept for the grace time of whoever collects. Raises StoreUnreachable, StoreRefused.
        """
        asked = list(dict.fromkeys(digests))
        async with self._claims.gate.shared():
            absent = set(await self.missing(asked))
            absent |= await self._claim([digest for digest in asked if digest not in absent])
            yield [digest for digest in asked if digest in absent]

    async def claim(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are missing; the others are claimed, so that they stay for the grace time. See `claiming`."""
        async with self.claiming(digests) as absent:
            return absent

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        """See ChunkReader. Also raises StoreUnreachable, StoreRefused."""
        check_range(digest, offset, limit)
        data = await (self._read_object(digest) if self._folder is None else self._read_file(self._folder, digest))
        if data is None:
            self._distrusted.add(digest)
            raise self._damaged(digest)
        self._distrusted.discard(digest)
        return cut(data, offset, limit)

    async def put(self, digest: Digest, data: bytes) -> bool:
        """Store a chunk; True when bytes were written, False when it was already here and whole.

        What is already here is read and hashed, so that putting a damaged chunk again repairs it. Either way the chunk
        is claimed. Raises DigestMismatch, DiskFull, StoreUnreachable, StoreRefused.
        """
        await verify_async(digest, data)
        async with self._claims.gate.shared():
            written = await self._put(digest, data)
            await self._claim([digest])
        return written

    async def _put(self, digest: Digest, data: bytes) -> bool:
        damaged = False
        try:
            await self.read(digest)
        except ChunkNotFound:
            pass
        except ChunkDamaged:
            damaged = True
        else:
            return False
        with self._store_errors(len(data)):
            await self._store.put_async(key_of(digest), data, use_multipart=False)
        self._distrusted.discard(digest)
        if damaged:
            # Manifests may refer to this chunk already, so it must not wait for the next make_durable.
            await self.make_durable([digest])
        return True

    async def make_durable(self, digests: Iterable[Digest]) -> None:
        """Return when these chunks survive a power cut; before this no manifest may refer to them.

        Raises ChunkNotFound, ChunkDamaged (wrong size), DiskFull, StoreUnreachable.
        """
        wanted = list(dict.fromkeys(digests))
        if self._folder is None:
            if absent := await self.missing(wanted):
                raise self._not_found(absent[0])
            return
        shares = [wanted[start::_SYNCS_AT_ONCE] for start in range(_SYNCS_AT_ONCE)]
        with self._store_errors(0):
            await asyncio.gather(*(asyncio.to_thread(self._sync_chunks, self._folder, share) for share in shares))
            await asyncio.to_thread(_sync_folders, self._folder, wanted)

    async def delete(self, digest: Digest) -> None:
        """Forget a chunk, claimed or not; nothing happens when it is not here."""
        with self._store_errors(0), suppress(FileNotFoundError):
            await self._store.delete_async(key_of(digest))
        self._distrusted.discard(digest)

    async def sign(self, catalog: str) -> None:
        """Leave word that a catalog uses this store. Raises DiskFull, StoreUnreachable, StoreRefused."""
        with self._store_errors(0):
            await self._store.put_async(f"{_CATALOGS}/{catalog}", b"", use_multipart=False)

    async def signed_by(self) -> set[str]:
        """The catalogs that use this store. Raises StoreUnreachable, StoreRefused."""
        with self._store_errors(0):
            found = await self._store.list_with_delimiter_async(f"{_CATALOGS}/")
        return {each["path"].rpartition("/")[2] for each in found["objects"]}

    async def blobs(self) -> AsyncGenerator[StoredBlob, None]:
        """Everything in the store that has the name of a blob, in no order; memory for a thousand of them.

        What comes or goes meanwhile may be listed or not. Raises StoreUnreachable, StoreRefused.
        """
        with self._store_errors(0):
            listing = list_objects(self._store) if self._folder is None else list_folder(self._folder / "chunks")
            async with aclosing(listing):
                async for blob in listing:
                    claimed = self._claims.last(blob.digest.sha256)
                    yield blob if claimed <= blob.modified else replace(blob, modified=claimed)

    def collecting(self, kept: DigestSet) -> AbstractAsyncContextManager[None]:
        """Until the block ends, whatever is claimed is added to `kept`. Raises CollectionBusy on entering."""
        return self._claims.kept_from(kept)

    async def delete_unclaimed(self, blobs: Sequence[StoredBlob], before: float) -> list[StoredBlob]:
        """Of a listing, delete what is not in the set of `collecting` and was not modified since `before`.

        Whoever claims meanwhile waits, so give some hundred at a time. `before` is in seconds since 1970; what was
        deleted is returned. Raises CollectionBusy outside of `collecting`, StoreUnreachable, StoreRefused.
        """
        async with self._claims.gate.alone():
            free = await self._claims.unclaimed(blob.digest.sha256 for blob in blobs)
            # Looked at again: the listing may be minutes old.
            doomed = [
                blob for blob in blobs if blob.digest.sha256 in free and self._claims.last(blob.digest.sha256) < before
            ]
            with self._store_errors(0):
                deleted = await in_thread(self._delete_older, doomed, before)
        self._distrusted -= {blob.digest for blob in deleted}
        return deleted

    def _delete_older(self, blobs: Sequence[StoredBlob], before: float) -> list[StoredBlob]:
        """Blocks, and runs to its end also when the caller is cancelled: a deletion must not outlive the gate."""
        deleted = []
        for blob in blobs:
            key = key_of(blob.digest)
            with suppress(FileNotFoundError):
                if self._store.head(key)["last_modified"].timestamp() < before:
                    self._store.delete(key)
                    deleted.append(blob)
        return deleted

    async def _claim(self, found: Sequence[Digest]) -> set[Digest]:
        """Claim what was found, inside the gate; those that are gone after all."""
        folder = self._folder
        files = None if folder is None else [folder / key_of(digest) for digest in found]
        with self._store_errors(0):
            gone = await self._claims.add([digest.sha256 for digest in found], files)
        return {digest for digest in found if digest.sha256 in gone}

    async def _read_file(self, folder: Path, digest: Digest) -> bytes | None:
        """Opened, read and hashed in one visit to a thread: for chunks of some kilobytes the visits are what costs."""
        with self._store_errors(0):
            try:
                return await asyncio.to_thread(read_whole, folder / key_of(digest), digest)
            except FileNotFoundError:
                raise self._not_found(digest) from None

    async def _read_object(self, digest: Digest) -> bytes | None:
        """The verified bytes, or None when they are wrong or cannot be read. Raises ChunkNotFound."""
        with self._store_errors(0):
            try:
                found = await self._store.get_async(key_of(digest))
                if found.meta["size"] != digest.size:
                    return None
                data = (await found.bytes_async()).to_bytes()
            except FileNotFoundError:
                raise self._not_found(digest) from None
            except BaseError as error:
                if _EIO in str(error):
                    return None
                raise
        try:
            await verify_async(digest, data)
        except DigestMismatch:
            return None
        return data

    def _sync_chunks(self, folder: Path, digests: list[Digest]) -> None:
        for digest in digests:
            try:
                size = sync_file(folder / key_of(digest))
            except FileNotFoundError:
                raise self._not_found(digest) from None
            if size != digest.size:
                raise self._damaged(digest)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self._folder) if self._folder is not None else str(self._store)

    def _not_found(self, digest: Digest) -> ChunkNotFound:
        return ChunkNotFound(f"no chunk {digest} in {self.place}", hint="publish the revision that needs it again")

    def _damaged(self, digest: Digest) -> ChunkDamaged:
        return ChunkDamaged(
            f"chunk {digest} in {self.place} no longer matches its digest",
            hint="publish the revision that needs it again: only this chunk will be sent",
        )

    @contextmanager
    def _store_errors(self, needed: int) -> Iterator[None]:
        """Turn obstore's errors, and an OSError of fsync, into ours. Their first line is enough for a person."""
        try:
            yield
        except DeltaicError:  # some of ours are OSErrors too, and say more
            raise
        except (PermissionDeniedError, PermissionError, UnauthenticatedError) as error:
            raise StoreRefused(_first_line(error), hint=f"check who may write to {self.place}") from error
        except (BaseError, OSError) as error:
            line = _first_line(error)
            if getattr(error, "errno", None) in FULL_ERRNOS or any(f"(os error {n})" in line for n in FULL_ERRNOS):
                raise disk_full(self.place, needed) from error
            raise StoreUnreachable(
                f"chunk store {self.place}: {line}", hint="check that it is mounted, reachable and writable"
            ) from error


def key_of(digest: Digest) -> str:
    """The name of a chunk's object."""
    return f"chunks/{digest.hex[:2]}/{digest.hex}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__


def _sync_folders(folder: Path, digests: list[Digest]) -> None:
    parents = {(folder / key_of(digest)).parent for digest in digests}
    for parent in sorted(parents):
        sync_folder(parent)
    if parents:
        sync_folder(folder / "chunks")
        sync_folder(folder)
