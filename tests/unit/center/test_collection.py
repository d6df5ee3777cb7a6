"""The collector by itself: in an object store too, with more than manifests to heed, and by the clock."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from center.catalog import Catalog
from center.collection import Collector, OtherNeeds
from center.database import Database
from center.library import Library
from center.reach import KeepPolicy
from center.records import Revision
from center.shelf import Shelf
from deltaic.names import ChannelName, RevisionName
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.errors import CollectionBusy, StoreUnreachable
from deltaic.store.model_files import ModelFiles
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
    yield opened
    opened.close()


class Setting:
    """A catalog, a store in memory, and a collector with no patience."""

    def __init__(self, database: Database, folder: Path, others: Sequence[OtherNeeds] = ()) -> None:
        self.chunks = ObjectChunkStore(MemoryStore())
        self.catalog = Catalog(database)
        library = Library(database, KeepPolicy(previous=0, lease_us=0, grace_us=0))
        self.shelf = Shelf(ModelFiles(folder / "models"), self.chunks, 0)
        self.collector = Collector(library, self.chunks, self.shelf, folder, -60.0, others)

    async def publish(self, path: Path, *channels: str) -> Manifest:
        manifest, data = Manifest.build(path), path.read_bytes()
        for chunk in manifest.chunks:
            await self.chunks.put(chunk.digest, data[chunk.offset : chunk.end])
        await self.chunks.put(manifest.digest, manifest.data)
        name = RevisionName("m", manifest.revision)
        revision = Revision(name, manifest.digest.size, manifest.size, 0)
        self.catalog.publish(revision, request_id=str(uuid.uuid4()), actor="publisher")
        for channel in channels:
            self.catalog.set_channel(ChannelName("m", channel), name, etag="", actor="operator")
        return manifest

    async def collect(self, *, dry_run: bool = False) -> registry_pb2.CollectSummary:
        news = [each async for each in self.collector.collect(dry_run=dry_run, actor="operator")]
        assert isinstance(news[-1], registry_pb2.CollectSummary)
        return news[-1]

    async def blobs(self) -> set[Digest]:
        return {blob.digest async for blob in self.chunks.blobs()}


def needed(*manifests: Manifest) -> set[Digest]:
    return {digest for manifest in manifests for digest in (manifest.digest, *manifest.unique)}


async def test_an_object_store_is_collected_like_a_folder(
    database: Database, tmp_path: Path, tiny_gguf: Callable
) -> None:
    setting = Setting(database, tmp_path)
    kept = await setting.publish(tiny_gguf(seed=1), "stable")
    gone = await setting.publish(tiny_gguf(seed=2))
    summary = await setting.collect()
    assert await setting.blobs() == needed(kept)
    freed = needed(gone) - needed(kept)
    assert summary.freed_blobs == len(freed)
    assert summary.freed_bytes == sum(digest.size for digest in freed)
    assert summary.kept_bytes == sum(digest.size for digest in needed(kept))


async def test_what_something_beside_manifests_refers_to_is_kept(
    database: Database, tmp_path: Path, tiny_gguf: Callable
) -> None:
    data = b"a pack of a delta"

    async def packs() -> AsyncIterator[Sequence[Digest]]:
        yield []
        yield [Digest.of(data)]

    setting = Setting(database, tmp_path, [packs])
    await setting.chunks.put(Digest.of(data), data)
    await setting.publish(tiny_gguf())
    await setting.collect()
    assert await setting.blobs() == {Digest.of(data)}


async def test_a_whole_file_that_is_in_use_outlives_its_revision(
    database: Database, tmp_path: Path, tiny_gguf: Callable
) -> None:
    setting = Setting(database, tmp_path)
    manifest = await setting.publish(tiny_gguf())
    async with setting.shelf.lease(manifest) as path:
        await setting.collect(dry_run=True)
        assert path.exists()
        await setting.collect()
        assert path.exists(), "whoever uses it keeps it"
    assert not path.exists()


async def test_a_caller_that_leaves_ends_a_collection_and_the_next_one_goes_on(
    database: Database, tmp_path: Path, tiny_gguf: Callable
) -> None:
    setting = Setting(database, tmp_path)
    for seed in range(3):
        await setting.publish(tiny_gguf(seed=seed))
    news = setting.collector.collect(dry_run=False, actor="operator")
    assert isinstance(await anext(news), registry_pb2.RevisionFate)
    with pytest.raises(CollectionBusy):
        await setting.collect()
    await news.aclose()
    assert not (tmp_path / "digests.tmp").exists()
    await setting.collect()
    assert await setting.blobs() == set()


async def test_a_store_that_fails_midway_leaves_what_the_next_one_finishes(
    database: Database, tmp_path: Path, tiny_gguf: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(database, tmp_path)
    kept = await setting.publish(tiny_gguf(seed=0), "stable")
    for seed in range(1, 4):
        await setting.publish(tiny_gguf(seed=seed))
    delete, left = MemoryStore.delete, 5

    def failing(store: MemoryStore, key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("the line to the bucket is cut")
        delete(store, key)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "delete", failing)
        with pytest.raises(StoreUnreachable):
            await setting.collect()
    assert needed(kept) < await setting.blobs()
    await setting.collect()
    assert await setting.blobs() == needed(kept)


async def test_by_the_clock_it_collects_again_and_again_whatever_goes_wrong(
    database: Database, tmp_path: Path, tiny_gguf: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(database, tmp_path)
    waited: list[float] = []
    sleep = asyncio.sleep

    async def passing(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)
        if len(waited) == 2:
            monkeypatch.setattr(setting.chunks, "blobs", blobs)
            await setting.publish(tiny_gguf())
        if len(waited) == 4:
            raise EOFError

    async def broken() -> AsyncIterator[None]:
        raise StoreUnreachable("the line to the bucket is cut")
        yield

    blobs = setting.chunks.blobs
    monkeypatch.setattr(setting.chunks, "blobs", broken)
    monkeypatch.setattr("center.collection.asyncio.sleep", passing)
    with pytest.raises(EOFError):
        await setting.collector.endlessly(24.0, "center@here")
    assert waited == [3600.0, 24 * 3600.0, 24 * 3600.0, 24 * 3600.0]
    assert await setting.blobs() == set()
