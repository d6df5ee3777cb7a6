"""The center's chunks: idempotent, repairable, durable before a manifest may name them."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import LocalStore, MemoryStore

from deltaic.store import chunk_store
from deltaic.store.chunk_store import ObjectChunkStore, key_of
from deltaic.store.errors import ChunkDamaged, ChunkNotFound, DiskFull, StoreRefused, StoreUnreachable
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

DATA = b"the bytes of a chunk" * 5000
CHUNK = Digest.of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ObjectChunkStore:
    return ObjectChunkStore(LocalStore(tmp_path))


async def test_the_object_of_a_chunk_is_named_by_its_whole_hash(store, tmp_path):
    await store.put(CHUNK, DATA)
    assert (tmp_path / "chunks" / CHUNK.hex[:2] / CHUNK.hex).read_bytes() == DATA


async def test_putting_twice_writes_once(store):
    assert await store.put(CHUNK, DATA) is True
    assert await store.put(CHUNK, DATA) is False


async def test_bytes_that_are_not_what_the_digest_names_are_not_stored(store):
    with pytest.raises(DigestMismatch):
        await store.put(CHUNK, DATA[:-1] + b"!")
    assert not await store.has(CHUNK)


async def test_missing_keeps_the_order_asked_and_names_each_once(store):
    await store.put(CHUNK, DATA)
    others = [Digest.of(bytes([number])) for number in range(150)]
    assert await store.missing([*others, CHUNK, *others]) == others


async def test_a_chunk_found_damaged_counts_as_missing_and_is_repaired_by_putting_it_again(store, tmp_path):
    await store.put(CHUNK, DATA)
    (tmp_path / key_of(CHUNK)).write_bytes(b"?" + DATA[1:])
    with pytest.raises(ChunkDamaged, match="publish"):
        await store.read(CHUNK)
    assert await store.missing([CHUNK]) == [CHUNK]
    assert await store.put(CHUNK, DATA) is True
    assert await store.missing([CHUNK]) == []
    assert await store.read(CHUNK) == DATA


async def test_putting_over_a_damaged_chunk_repairs_it_even_when_nobody_noticed(store, tmp_path):
    await store.put(CHUNK, DATA)
    (tmp_path / key_of(CHUNK)).write_bytes(b"?" + DATA[1:])
    assert await store.put(CHUNK, DATA) is True
    assert await store.read(CHUNK) == DATA


@pytest.mark.parametrize("size", [0, 10, len(DATA) + 1])
async def test_a_file_of_another_size_is_no_chunk(store, tmp_path, size):
    await store.put(CHUNK, DATA)
    (tmp_path / key_of(CHUNK)).write_bytes((DATA + b"x")[:size])
    assert not await store.has(CHUNK)
    with pytest.raises(ChunkDamaged):
        await store.read(CHUNK)
    with pytest.raises(ChunkDamaged):
        await store.make_durable([CHUNK])


async def test_an_unfinished_write_of_another_process_is_no_chunk(store, tmp_path):
    path = tmp_path / f"{key_of(CHUNK)}#1"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert not await store.has(CHUNK)
    await store.put(CHUNK, DATA)
    assert await store.read(CHUNK) == DATA


@pytest.fixture
def flushed(monkeypatch) -> set[Path]:
    """The files and folders that were flushed to the disk."""
    paths: set[Path] = set()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        paths.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return paths


async def test_durable_means_that_the_file_and_every_folder_above_it_were_flushed(store, tmp_path, flushed):
    await store.put(CHUNK, DATA)
    await store.make_durable([CHUNK])
    path = tmp_path / key_of(CHUNK)
    assert flushed == {path, path.parent, tmp_path / "chunks", tmp_path}


async def test_a_repaired_chunk_is_durable_at_once_because_manifests_name_it_already(store, tmp_path, flushed):
    await store.put(CHUNK, DATA)
    path = tmp_path / key_of(CHUNK)
    path.write_bytes(b"?" + DATA[1:])
    assert flushed == set()
    await store.put(CHUNK, DATA)
    assert path in flushed


@pytest.mark.parametrize("objects", ["folder", "memory"])
async def test_what_is_not_there_cannot_be_made_durable(tmp_path, objects):
    store = ObjectChunkStore(LocalStore(tmp_path) if objects == "folder" else MemoryStore())
    await store.put(CHUNK, DATA)
    absent = Digest.of(b"absent")
    with pytest.raises(ChunkNotFound, match=absent.hex):
        await store.make_durable([CHUNK, absent])
    await store.make_durable([CHUNK])


async def test_making_nothing_durable_is_nothing(store):
    await store.make_durable([])


async def test_deleting_is_idempotent(store):
    await store.put(CHUNK, DATA)
    await store.delete(CHUNK)
    await store.delete(CHUNK)
    assert not await store.has(CHUNK)


async def test_twenty_writers_of_one_chunk_leave_one_whole_chunk(store, tmp_path):
    await asyncio.gather(*(store.put(CHUNK, DATA) for _ in range(20)))
    assert [path.name for path in (tmp_path / key_of(CHUNK)).parent.iterdir()] == [CHUNK.hex]
    assert await store.read(CHUNK) == DATA


class _Failing(MemoryStore):
    """Answers everything with one error, as a bucket or a disk may."""

    error: Exception

    async def get_async(self, path, **options):
        raise FileNotFoundError(path)

    async def put_async(self, path, file, **options):
        raise self.error

    async def head_async(self, path):
        raise self.error


def _failing(error: Exception) -> ObjectChunkStore:
    objects = _Failing()
    objects.error = error
    return ObjectChunkStore(objects)


@pytest.mark.parametrize("number", [28, 122, 27])
async def test_a_full_disk_names_the_folder_and_the_bytes(number):
    # The text that obstore 0.12 gives for ENOSPC, EDQUOT and EFBIG.
    text = (
        f"Generic LocalFileSystem error: Unable to copy data to file: No space (os error {number})\n\nDebug source: …"
    )
    with pytest.raises(DiskFull, match=r"no room in .*: 100,000 more bytes are needed; free space") as caught:
        await _failing(GenericError(text)).put(CHUNK, DATA)
    assert caught.value.metadata["needed_bytes"] == str(len(DATA))


async def test_a_store_that_does_not_answer_is_unavailable_in_one_line():
    with pytest.raises(StoreUnreachable, match="connection refused") as caught:
        await _failing(GenericError("Generic S3 error: connection refused\n\nDebug source: …")).has(CHUNK)
    assert "\n" not in str(caught.value)


async def test_a_store_that_refuses_says_so():
    with pytest.raises(StoreRefused, match="check who may write"):
        await _failing(PermissionDeniedError("Generic S3 error: forbidden")).put(CHUNK, DATA)


async def test_what_cannot_be_read_from_a_broken_disk_is_damaged(monkeypatch):
    class Broken(_Failing):
        async def get_async(self, path, **options):
            raise GenericError("Generic LocalFileSystem error: Unable to read: Input/output error (os error 5)")

    with pytest.raises(ChunkDamaged):
        await ObjectChunkStore(Broken()).read(CHUNK)


async def test_a_chunk_whose_file_the_disk_cannot_read_is_damaged_and_can_be_put_again(store, monkeypatch):
    await store.put(CHUNK, DATA)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(ChunkDamaged):
        await store.read(CHUNK)
    assert await store.missing([CHUNK]) == [CHUNK]
    monkeypatch.undo()
    assert await store.put(CHUNK, DATA) is False


async def test_a_file_that_this_user_may_not_read_is_a_refusal(store, monkeypatch):
    await store.put(CHUNK, DATA)

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StoreRefused, match="Permission denied"):
        await store.read(CHUNK)


def test_keys_spread_over_256_folders():
    assert chunk_store.key_of(CHUNK) == f"chunks/{CHUNK.hex[:2]}/{CHUNK.hex}"
