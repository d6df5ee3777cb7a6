"""One suite for everything that is a ChunkReader: chunks in memory or in a folder, model files, deltas, several."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore, key_of
from deltaic.store.delta_records import DeltaRecord, Pair
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.store.errors import BadRange, ChunkDamaged, ChunkNotFound
from deltaic.store.model_files import ModelFiles
from deltaic.store.reading import ChunkReader, ReadersInTurn
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest


@dataclass
class Held:
    """A reader that holds one model, what the model consists of, and a way to spoil the stored bytes of a blob."""

    reader: ChunkReader
    manifest: Manifest
    blobs: dict[Digest, bytes]
    damage: Callable[[Digest], None]

    @property
    def largest(self) -> Digest:
        return max((chunk.digest for chunk in self.manifest.chunks), key=lambda digest: digest.size)


@pytest.fixture(scope="module")
def model(tiny_gguf) -> tuple[Path, Manifest]:
    path = tiny_gguf(ballast=300_000)
    return path, Manifest.build(path)


@pytest.fixture(params=["memory", "folder", "model files", "deltas", "in turn"])
def held(request, tmp_path: Path, model) -> Iterator[Held]:
    path, manifest = model
    content = path.read_bytes()
    blobs = {chunk.digest: content[chunk.offset : chunk.end] for chunk in manifest.chunks}
    blobs[manifest.digest] = manifest.data
    make = {
        "memory": _in_memory,
        "folder": _in_folder,
        "model files": _in_model_files,
        "deltas": _in_deltas,
        "in turn": _in_turn,
    }[request.param]
    reader, damage = make(tmp_path, manifest, path, blobs)
    return Held(reader, manifest, blobs, damage)


def _put_all(store: ObjectChunkStore, blobs: dict[Digest, bytes]) -> None:
    async def put() -> None:
        for digest, data in blobs.items():
            await store.put(digest, data)
        await store.make_durable(blobs)

    asyncio.run(put())


def _in_memory(tmp_path, manifest, path, blobs):
    objects = MemoryStore()
    store = ObjectChunkStore(objects)
    _put_all(store, blobs)

    def damage(digest: Digest) -> None:
        objects.put(key_of(digest), _spoilt(blobs[digest]))

    return store, damage


def _in_folder(tmp_path, manifest, path, blobs):
    store = open_chunk_store(str(tmp_path / "center"))
    _put_all(store, blobs)

    def damage(digest: Digest) -> None:
        (tmp_path / "center" / key_of(digest)).write_bytes(_spoilt(blobs[digest]))

    return store, damage


def _in_model_files(tmp_path, manifest, path, blobs):
    folder = tmp_path / "edge"
    folder.mkdir()
    shutil.copy(path, folder / f"{manifest.digest.hex}.gguf")
    (folder / f"{manifest.digest.hex}.manifest").write_bytes(manifest.data)
    files = ModelFiles(folder)

    def damage(digest: Digest) -> None:
        for place in files.locate(digest):
            content = bytearray(place.path.read_bytes())
            content[place.offset : place.offset + digest.size] = _spoilt(blobs[digest])
            place.path.write_bytes(content)

    return files, damage


def _in_deltas(tmp_path, manifest, path, blobs):
    """As if the manifest were an index and the chunks packs: a shelf does not look into them."""
    shelf = DeltaShelf(tmp_path / "deltas", 1 << 30)
    made = shelf.making / "one"
    made.mkdir()
    for digest, data in blobs.items():
        (made / digest.hex).write_bytes(data)
    packs = tuple(digest for digest in blobs if digest != manifest.digest)
    record = DeltaRecord(Pair(Digest.of(b"old"), Digest.of(b"new")), manifest.digest, packs, manifest.size, 0)
    asyncio.run(shelf.add(record, made))

    def damage(digest: Digest) -> None:
        (tmp_path / "deltas" / key_of(digest)).write_bytes(_spoilt(blobs[digest]))

    return shelf, damage


def _in_turn(tmp_path, manifest, path, blobs):
    """An empty shelf of deltas before the chunks of a center."""
    chunks, damage = _in_folder(tmp_path, manifest, path, blobs)
    return ReadersInTurn(DeltaShelf(tmp_path / "deltas", 1 << 30), chunks), damage


def _spoilt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


async def test_every_chunk_and_the_manifest_read_back_as_they_are(held: Held):
    for digest, data in held.blobs.items():
        assert await held.reader.has(digest)
        assert await held.reader.read(digest) == data


async def test_what_is_read_is_plain_bytes(held: Held):
    assert type(await held.reader.read(held.largest)) is bytes
    assert type(await held.reader.read(held.largest, 10, 20)) is bytes


@pytest.mark.parametrize(("offset", "limit"), [(0, 10), (7, None), (7, 10), (100, 10**9), (0, 0), (0, None)])
async def test_a_part_is_the_part_that_was_asked_for(held: Held, offset: int, limit: int | None):
    whole = held.blobs[held.largest]
    end = None if limit is None else offset + limit
    assert await held.reader.read(held.largest, offset, limit) == whole[offset:end]


async def test_the_end_of_a_blob_is_an_empty_part(held: Held):
    assert await held.reader.read(held.largest, held.largest.size) == b""


@pytest.mark.parametrize(("offset", "limit"), [(-1, None), (10**9, None), (0, -1)])
async def test_a_range_outside_the_blob_is_refused(held: Held, offset: int, limit: int | None):
    with pytest.raises(BadRange, match="outside the"):
        await held.reader.read(held.largest, offset, limit)


async def test_what_was_never_stored_is_not_found(held: Held):
    stranger = Digest.of(b"never stored")
    assert not await held.reader.has(stranger)
    with pytest.raises(ChunkNotFound, match=stranger.hex):
        await held.reader.read(stranger)


async def test_the_right_hash_with_a_wrong_size_is_not_here(held: Held):
    lie = Digest(held.largest.sha256, held.largest.size + 1)
    assert not await held.reader.has(lie)
    with pytest.raises((ChunkNotFound, ChunkDamaged)):
        await held.reader.read(lie)
    assert await held.reader.has(held.largest)


async def test_a_flipped_bit_is_damage_and_never_wrong_bytes(held: Held):
    held.damage(held.largest)
    with pytest.raises(ChunkDamaged, match=held.largest.hex) as caught:
        await held.reader.read(held.largest)
    assert caught.value.code == "DATA_LOSS"


async def test_a_flipped_bit_outside_the_asked_part_is_damage_too(held: Held):
    held.damage(held.largest)
    with pytest.raises(ChunkDamaged):
        await held.reader.read(held.largest, 0, 1)


async def test_damage_to_one_chunk_leaves_the_others_readable(held: Held):
    held.damage(held.largest)
    for digest in held.blobs.keys() - {held.largest}:
        assert await held.reader.read(digest) == held.blobs[digest]


async def test_a_damaged_manifest_is_damage(held: Held):
    held.damage(held.manifest.digest)
    with pytest.raises(ChunkDamaged):
        await held.reader.read(held.manifest.digest)


async def test_many_reads_at_once_do_not_disturb_each_other(held: Held):
    digests = list(held.blobs) * 3
    answers = await asyncio.gather(*(held.reader.read(digest) for digest in digests))
    assert answers == [held.blobs[digest] for digest in digests]
