"""Addresses of chunk stores, as people write them."""

import os
import time
from pathlib import Path

import pytest

from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import key_of
from deltaic.store.errors import BadStoreAddress
from deltaic.weights.digest import Digest

DATA = b"chunk"
CHUNK = Digest.of(DATA)


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
async def test_a_folder_is_created_and_keeps_what_is_put(tmp_path: Path, form: str):
    folder = tmp_path / "new" / "with space"
    address = form.format(folder).replace(" ", "%20") if "://" in form else form.format(folder)
    await open_chunk_store(address).put(CHUNK, DATA)
    assert (folder / key_of(CHUNK)).read_bytes() == DATA
    assert await open_chunk_store(str(folder)).read(CHUNK) == DATA


async def test_each_store_in_memory_is_its_own():
    first, second = open_chunk_store("memory://"), open_chunk_store("memory://")
    await first.put(CHUNK, DATA)
    assert await first.has(CHUNK)
    assert not await second.has(CHUNK)


def test_a_bucket_is_not_asked_before_its_first_use():
    assert "S3Store" in repr(open_chunk_store("s3://bucket/models"))


@pytest.mark.parametrize("address", ["", "  ", "ftp://host/x", "file://otherhost/x", "file:relative://x", "s3://"])
def test_an_address_that_means_nothing_is_refused_with_what_to_write(address: str):
    with pytest.raises(BadStoreAddress, match="write"):
        open_chunk_store(address)


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadStoreAddress, match="file"):
        open_chunk_store(str(tmp_path / "file"))
    with pytest.raises(BadStoreAddress, match="Not a directory"):
        open_chunk_store(str(tmp_path / "file" / "below"))


def test_opening_removes_abandoned_writes_and_nothing_else(tmp_path: Path):
    open_chunk_store(str(tmp_path))
    chunk = tmp_path / key_of(CHUNK)
    chunk.parent.mkdir(parents=True)
    old, young, foreign = chunk.with_name(f"{chunk.name}#1"), chunk.with_name(f"{chunk.name}#2"), chunk.with_name("a#1")
    for path in (chunk, old, young, foreign):
        path.write_bytes(DATA)
    for path in (chunk, old, foreign):
        os.utime(path, (time.time() - 7200,) * 2)
    open_chunk_store(str(tmp_path))
    assert sorted(chunk.parent.iterdir()) == sorted([chunk, young, foreign])
