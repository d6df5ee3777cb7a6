"""Publishing's bytes: only what is missing, through cuts and bent bytes, never from a file that changes."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line import Line
from transfer_nodes import connected, serving, stored

from deltaic.errors import Code, DeltaicError
from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.errors import DiskFull
from deltaic.transfer.backoff import Retry
from deltaic.transfer.errors import FileChanged, LineLost
from deltaic.transfer.upload import UploadStats, upload
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

QUICK = Retry(failures=8, first_delay=0.01, longest_delay=0.05)


@pytest.fixture(scope="session")
def model(tiny_gguf: Callable[..., Path]) -> Path:
    return tiny_gguf("model.gguf", ballast=20 << 20)


@pytest.fixture
def store(tmp_path: Path) -> ObjectChunkStore:
    return open_chunk_store(str(tmp_path / "chunks"))


async def send(port: int, path: Path, manifest: Manifest, **options: Any) -> UploadStats:
    async with connected(port) as channel:
        return await upload(path, manifest, channel, target="center", retry=QUICK, **options)


async def assert_complete(store: ObjectChunkStore, manifest: Manifest) -> None:
    for digest in [*manifest.unique, manifest.digest]:
        digest.verify(await store.read(digest))


async def test_an_upload_stores_every_chunk_and_the_manifest(model: Path, store: ObjectChunkStore) -> None:
    manifest = Manifest.build(model)
    seen: list[tuple[int, int]] = []
    async with serving(store, store) as server:
        stats = await send(server.port, model, manifest, on_progress=lambda *at: seen.append(at))
    await assert_complete(store, manifest)
    assert stats.sent_bytes == stats.full_bytes == sum(d.size for d in manifest.unique) + manifest.digest.size
    assert seen == sorted(seen)
    assert seen[-1] == (stats.full_bytes, stats.full_bytes)


async def test_a_second_upload_sends_nothing(model: Path, store: ObjectChunkStore) -> None:
    manifest = Manifest.build(model)
    async with serving(store, store) as server:
        await send(server.port, model, manifest)
        stats = await send(server.port, model, manifest)
    assert stats.sent_bytes == stats.wire_bytes == 0
    assert stats.held_bytes == stats.full_bytes


async def test_a_changed_template_sends_kilobytes(tmp_path: Path, tiny_gguf: Callable[..., Path], model: Path) -> None:
    store, _ = await stored(tmp_path / "chunks", model)
    changed = tiny_gguf("model.gguf", ballast=20 << 20, chat_template="{{ messages }}")
    manifest = Manifest.build(changed)
    async with serving(store, store) as server:
        stats = await send(server.port, changed, manifest)
    await assert_complete(store, manifest)
    assert stats.sent_bytes < 10_000


async def test_cuts_and_bent_bytes_delay_an_upload_and_store_nothing_wrong(
    model: Path, store: ObjectChunkStore
) -> None:
    manifest = Manifest.build(model)
    dice = random.Random(3)
    seen: list[tuple[int, int]] = []
    async with serving(store, store) as server, Line(server.port) as line:
        line.cut_after(dice.randrange(6_000_000, 9_000_000), up=True)
        left = [4]

        def cut_again() -> None:
            left[0] -= 1
            if left[0] > 0:
                line.cut_after(dice.randrange(6_000_000, 9_000_000), up=True)

        line.on_cut = cut_again
        line.bend(up=1)
        stats = await send(line.port, model, manifest, on_progress=lambda *at: seen.append(at))
        assert line.bent == 1
        assert line.cuts >= 2
    await assert_complete(store, manifest)
    assert seen == sorted(seen)
    assert stats.wire_bytes < 3 * manifest.size


async def test_a_line_that_stays_down_leaves_chunks_but_no_manifest(model: Path, store: ObjectChunkStore) -> None:
    manifest = Manifest.build(model)
    async with serving(store, store) as server, Line(server.port) as line:
        line.on_cut = lambda: setattr(line, "is_down", True)
        line.cut_after(9_000_000, up=True)
        with pytest.raises(LineLost):
            await send(line.port, model, manifest)
        assert not await store.has(manifest.digest)
        line.bring_back()
        stats = await send(line.port, model, manifest)
    assert stats.held_bytes > 0, "what had arrived is not sent again"
    await assert_complete(store, manifest)


async def test_a_file_that_changes_while_it_is_sent_is_refused(
    tmp_path: Path, model: Path, store: ObjectChunkStore
) -> None:
    path = tmp_path / "changing.gguf"
    path.write_bytes(model.read_bytes())
    manifest = Manifest.build(path)
    with path.open("r+b") as file:
        file.seek(12 << 20)
        file.write(b"something else")
    async with serving(store, store) as server:
        with pytest.raises(FileChanged, match="not what it was"):
            await send(server.port, path, manifest)
    assert not await store.has(manifest.digest)


async def test_a_node_that_takes_no_writes_says_so(model: Path, store: ObjectChunkStore) -> None:
    manifest = Manifest.build(model)
    async with serving(store, None) as server:
        with pytest.raises(DeltaicError, match="takes no writes") as raised:
            await send(server.port, model, manifest)
    assert raised.value.code is Code.UNIMPLEMENTED


async def test_a_full_disk_at_the_node_is_said_and_not_tried_again_and_again(
    model: Path, store: ObjectChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.build(model)
    tries: list[Digest] = []

    async def put(digest: Digest, data: bytes) -> bool:
        tries.append(digest)
        raise DiskFull("no room in /data: 4,194,304 more bytes are needed", hint="free space there and try again")

    monkeypatch.setattr(store, "put", put)
    async with serving(store, store) as server:
        with pytest.raises(DeltaicError, match="no room") as raised:
            await send(server.port, model, manifest)
    assert raised.value.reason == "DISK_FULL"
    # gRPC may report a call that the node ended while we wrote as broken first; only that is tried again.
    assert len(tries) <= 3
