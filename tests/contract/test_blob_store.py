"""One suite for every place where the center's blobs may rest: what is listed, what is claimed, what may be deleted."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore, key_of
from deltaic.store.digest_set import DigestSet
from deltaic.store.errors import CollectionBusy
from deltaic.store.listing import StoredBlob
from deltaic.weights.digest import Digest

SOON = 3600.0


@dataclass
class Place:
    """A store, a way to put objects of any name into it behind its back, and the set of a collection."""

    store: ObjectChunkStore
    put_object: Callable[[str, bytes], None]
    kept: DigestSet
    can_age: bool
    age: Callable[[Digest, float], None]

    async def blobs(self) -> dict[Digest, float]:
        return {blob.digest: blob.modified async for blob in self.store.blobs()}

    async def listed(self) -> list[StoredBlob]:
        return [blob async for blob in self.store.blobs()]

    async def delete(self, blobs: list[StoredBlob], before: float | None = None) -> set[Digest]:
        deleted = await self.store.delete_unclaimed(blobs, time.time() + SOON if before is None else before)
        return {blob.digest for blob in deleted}


@pytest.fixture(params=["memory", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "work").mkdir()
    with DigestSet(tmp_path / "work") as kept:
        if request.param == "memory":
            objects = MemoryStore()
            yield Place(ObjectChunkStore(objects), objects.put, kept, False, lambda *_: None)
            return
        folder = tmp_path / "center"

        def put_object(key: str, data: bytes) -> None:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)

        def age(digest: Digest, seconds: float) -> None:
            then = time.time() - seconds
            os.utime(folder / key_of(digest), (then, then))

        yield Place(open_chunk_store(str(folder)), put_object, kept, True, age)


async def fill(store: ObjectChunkStore, count: int, start: int = 0) -> list[Digest]:
    digests = []
    for number in range(start, start + count):
        data = f"blob {number}".encode() * (1 + number % 7)
        digests.append(Digest.of(data))
        await store.put(digests[-1], data)
    return digests


async def test_an_empty_store_lists_nothing(place: Place) -> None:
    assert await place.blobs() == {}


async def test_everything_stored_is_listed_once_with_its_size_and_time(place: Place) -> None:
    began = time.time() - 1
    digests = await fill(place.store, 300)
    listed = await place.listed()
    assert len(listed) == 300
    assert {blob.digest for blob in listed} == set(digests)
    assert all(began < blob.modified < time.time() + 1 for blob in listed)


async def test_what_has_another_name_than_a_blob_is_not_listed(place: Place) -> None:
    (digest,) = await fill(place.store, 1)
    foreign = [
        "readme.txt",
        "chunks/readme.txt",
        f"chunks/{digest.hex}",
        f"chunks/{digest.hex[:2]}/{digest.hex.upper()}",
        f"chunks/{digest.hex[:2]}/{digest.hex[:63]}",
        f"chunks/{digest.hex[:2]}/{digest.hex}.bak",
        f"chunks/{digest.hex[:2]}/{'0' if digest.hex[0] != '0' else '1'}{digest.hex[1:]}",
        f"chunks/{digest.hex[:2]}/more/{digest.hex}",
        f"chunks/zz/{digest.hex}",
        f"other/{digest.hex[:2]}/{digest.hex}",
    ]
    for key in foreign:
        place.put_object(key, b"somebody else's")
    assert set(await place.blobs()) == {digest}


async def test_a_blob_of_the_wrong_size_is_listed_with_the_size_that_it_has(place: Place) -> None:
    (digest,) = await fill(place.store, 1)
    place.put_object(key_of(digest), b"cut")
    assert set(await place.blobs()) == {Digest(digest.sha256, 3)}


async def test_deleting_spares_what_the_collection_keeps(place: Place) -> None:
    digests = await fill(place.store, 10)
    listed = await place.listed()
    async with place.store.collecting(place.kept):
        place.kept.add(digest.sha256 for digest in digests[:4])
        assert await place.delete(listed) == set(digests[4:])
        assert await place.delete(listed) == set(), "a second time there is nothing left to delete"
    assert set(await place.blobs()) == set(digests[:4])


async def test_deleting_spares_what_is_not_older_than_was_said(place: Place) -> None:
    digests = await fill(place.store, 3)
    async with place.store.collecting(place.kept):
        assert await place.delete(await place.listed(), before=time.time() - SOON) == set()
    assert set(await place.blobs()) == set(digests)


async def test_nothing_is_deleted_outside_of_a_collection(place: Place) -> None:
    await fill(place.store, 1)
    with pytest.raises(CollectionBusy):
        await place.delete(await place.listed())
    assert len(await place.blobs()) == 1


async def test_two_collections_never_run_at_once(place: Place) -> None:
    async with place.store.collecting(place.kept):
        with pytest.raises(CollectionBusy):
            async with place.store.collecting(place.kept):
                raise AssertionError("two at once")
    async with place.store.collecting(place.kept):
        pass


async def test_what_is_claimed_during_a_collection_is_spared_by_it_whatever_the_clock_says(place: Place) -> None:
    digests = await fill(place.store, 6)
    listed = await place.listed()
    async with place.store.collecting(place.kept):
        stranger = Digest.of(b"never stored")
        assert await place.store.claim([stranger, *digests[:2]]) == [stranger]
        await place.store.put(digests[2], b"blob 2" * 3)
        (fresh,) = await fill(place.store, 1, start=100)
        assert await place.delete([*listed, *await place.listed()]) == set(digests[3:])
    assert set(await place.blobs()) == {*digests[:3], fresh}


async def test_a_claim_before_a_collection_renews_the_grace(place: Place) -> None:
    old, renewed = await fill(place.store, 2)
    if place.can_age:
        place.age(old, 2 * SOON)
        place.age(renewed, 2 * SOON)
        before = time.time() - SOON
    else:
        await asyncio.sleep(0.05)
        place.store._claims._recent.clear()  # an hour ago, as far as memory tells
        before = time.time()
    await place.store.claim([renewed])
    async with place.store.collecting(place.kept):
        assert await place.delete(await place.listed(), before) == {old}
    assert set(await place.blobs()) == {renewed}


async def test_nothing_is_deleted_while_somebody_is_about_to_refer_to_it(place: Place) -> None:
    digests = await fill(place.store, 5)
    listed = await place.listed()
    async with place.store.claiming(digests) as missing:
        assert missing == []
        starting = asyncio.ensure_future(place.store.collecting(place.kept).__aenter__())
        done, _ = await asyncio.wait({starting}, timeout=0.05)
        assert not done, "a collection began in the middle of a publish"
    await starting
    place.kept.add(digest.sha256 for digest in digests)  # the publish is in the catalog now
    assert await place.delete(listed) == set()


async def test_a_claim_that_races_with_deletion_is_told_the_truth(place: Place) -> None:
    """Whatever the order, a blob that was claimed and not denied is there when all is done."""
    for round_ in range(20):
        digests = await fill(place.store, 40, start=1_000 * round_)
        listed = await place.listed()

        async def claim(share: list[Digest]) -> list[Digest]:
            absent = set(await place.store.claim(share))
            return [digest for digest in share if digest not in absent]

        async with place.store.collecting(place.kept):
            halves = [listed[start : start + 8] for start in range(0, len(listed), 8)]
            claims = [claim(digests[start : start + 5]) for start in range(0, 20, 5)]
            answers = await asyncio.gather(*claims, *(place.delete(each) for each in halves))
        promised = {digest for answer in answers[: len(claims)] for digest in answer}
        assert promised <= set(await place.blobs())


async def test_a_store_knows_the_catalogs_that_use_it_and_lists_none_as_a_blob(place: Place) -> None:
    assert await place.store.signed_by() == set()
    for name in ("one", "two", "one"):
        await place.store.sign(name)
    assert await place.store.signed_by() == {"one", "two"}
    assert await place.blobs() == {}
