"""Whole files made from chunks: made once, verified, leased while used, bounded otherwise."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from center.manifests import Manifests
from center.shelf import Shelf
from deltaic.store.chunk_store import ObjectChunkStore, key_of
from deltaic.store.errors import ChunkDamaged, ChunkNotFound
from deltaic.store.model_files import ModelFiles
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES, Manifest

TinyGguf = Callable[..., Path]


class CountingStore(ObjectChunkStore):
    """A chunk store that remembers what was read from it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.memory = store
        self.reads: list[Digest] = []

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        self.reads.append(digest)
        return await super().read(digest, offset, limit)

    async def fill(self, path: Path) -> Manifest:
        manifest = Manifest.build(path)
        data = path.read_bytes()
        for chunk in manifest.chunks:
            await self.put(chunk.digest, data[chunk.offset : chunk.end])
        await self.put(manifest.digest, manifest.data)
        self.reads.clear()
        return manifest


@pytest.fixture
def chunks() -> CountingStore:
    return CountingStore(MemoryStore())


def shelf_in(folder: Path, chunks: ObjectChunkStore, cache_bytes: int = 1 << 30) -> Shelf:
    return Shelf(ModelFiles(folder), chunks, cache_bytes)


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.gguf")}


async def test_many_who_want_a_file_get_it_made_once(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    original = tiny_gguf()
    manifest = await chunks.fill(original)
    shelf = shelf_in(tmp_path, chunks)

    async def taken() -> bytes:
        async with shelf.lease(manifest) as path:
            return await asyncio.to_thread(path.read_bytes)

    files = await asyncio.gather(*(taken() for _ in range(5)))
    assert set(files) == {original.read_bytes()}
    assert sorted(chunks.reads) == sorted(manifest.unique)


async def test_a_file_in_use_stays_however_small_the_cache(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    one, two = [await chunks.fill(tiny_gguf(general_name=name)) for name in ("1", "2")]
    shelf = shelf_in(tmp_path, chunks, cache_bytes=0)
    async with shelf.lease(one):
        async with shelf.lease(two):
            pass
        assert kept(tmp_path) == {one.digest.hex}
    assert kept(tmp_path) == set()


async def test_a_file_found_at_start_is_used_and_counted(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    one, two = [await chunks.fill(tiny_gguf(general_name=name)) for name in ("1", "2")]
    async with shelf_in(tmp_path, chunks).lease(one):
        pass
    chunks.reads.clear()
    shelf = shelf_in(tmp_path, chunks, cache_bytes=two.size)
    async with shelf.lease(one):
        pass
    assert chunks.reads == []
    async with shelf.lease(two):
        pass
    assert kept(tmp_path) == {two.digest.hex}


async def test_a_missing_or_damaged_chunk_leaves_nothing_behind(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    manifest = await chunks.fill(tiny_gguf())
    last = manifest.chunks[-1].digest
    shelf = shelf_in(tmp_path, chunks)
    await chunks.memory.put_async(key_of(last), bytes(last.size))
    with pytest.raises(ChunkDamaged):
        async with shelf.lease(manifest):
            raise AssertionError("a damaged file was handed out")
    await chunks.delete(last)
    with pytest.raises(ChunkNotFound):
        async with shelf.lease(manifest):
            raise AssertionError("half a file was handed out")
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.gguf"))


async def test_what_a_crash_left_half_made_is_removed_at_start(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    manifest = await chunks.fill(tiny_gguf())
    with ModelFiles(tmp_path).stage(manifest):
        assert list(tmp_path.glob("*.part"))
    shelf_in(tmp_path, chunks)
    assert not list(tmp_path.glob("*.part"))


async def test_a_discarded_file_is_gone_unless_somebody_uses_it(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf
) -> None:
    manifest = await chunks.fill(tiny_gguf())
    shelf = shelf_in(tmp_path, chunks)
    async with shelf.lease(manifest) as path:
        await shelf.discard(manifest)
        assert path.exists()
    await shelf.discard(manifest)
    assert kept(tmp_path) == set()
    async with shelf.lease(manifest) as path:
        assert path.exists()


async def test_two_who_remove_a_file_at_once_leave_a_later_copy_alone(
    tmp_path: Path, chunks: CountingStore, tiny_gguf: TinyGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = await chunks.fill(tiny_gguf())
    shelf = shelf_in(tmp_path, chunks)
    async with shelf.lease(manifest):
        pass
    removed: list[str] = []
    remove = ModelFiles.remove
    monkeypatch.setattr(ModelFiles, "remove", lambda files, hex_: (removed.append(hex_), remove(files, hex_)))
    await asyncio.gather(shelf.discard(manifest), shelf.discard(manifest))
    assert removed == [manifest.digest.hex]


async def test_manifests_are_parsed_once_and_bounded(chunks: CountingStore, tiny_gguf: TinyGguf) -> None:
    one, two = [await chunks.fill(tiny_gguf(general_name=name)) for name in ("1", "2")]
    manifests = Manifests(chunks, kept_bytes=max(len(one.data), len(two.data)))
    for manifest in (one, one, two, two, one):
        assert await manifests.get(manifest.digest) == manifest
    assert chunks.reads == [one.digest, two.digest, one.digest]


async def test_a_manifest_beyond_the_limit_is_refused_unread(chunks: CountingStore) -> None:
    with pytest.raises(BadManifest):
        await Manifests(chunks).get(Digest(bytes(32), MAX_MANIFEST_BYTES + 1))
    assert chunks.reads == []
