"""Repairing a damaged file from another node: only what is bad is fetched, and nothing is lost when that fails."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transfer_nodes import connected, serving, stored

from deltaic.errors import NotFound
from deltaic.names import ChannelName
from deltaic.store.checking import Checked, Health, check_folder
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelBook, ChannelState
from deltaic.transfer.errors import SourceLacks
from deltaic.transfer.repair import Repairer, known_manifests
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

BALLAST = 24 << 20


@pytest.fixture(scope="session")
def model(tiny_gguf: Callable[..., Path]) -> Path:
    return tiny_gguf("model.gguf", ballast=BALLAST)


def damage(folder: Path, manifest: Manifest, *numbers: int) -> int:
    """Flip a bit in these chunks; the bytes that they have together."""
    path = folder / f"{manifest.digest.hex}.gguf"
    with path.open("r+b") as file:
        for number in numbers:
            chunk = manifest.chunks[number]
            file.seek(chunk.offset)
            byte = file.read(1)[0]
            file.seek(chunk.offset)
            file.write(bytes([byte ^ 1]))
    return sum(manifest.chunks[number].digest.size for number in numbers)


def fill(folder: Path, model: Path, manifest: Manifest) -> Path:
    content = model.read_bytes()
    with ModelFiles(folder).stage(manifest) as staging:
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        return staging.commit()


def book(path: Path, manifest: Manifest) -> Path:
    """What a node remembers of a channel that names this revision."""
    channel = ChannelName.parse("models/tiny/channels/stable")
    revision = registry_pb2.Revision(
        name=f"models/tiny/revisions/{manifest.revision}", manifest=manifest.digest.to_proto()
    )
    remembered = ChannelBook(path, [channel])
    remembered.aim(ChannelState.from_proto(registry_pb2.Channel(name=str(channel), revision=revision)))
    remembered.save(remembered.serialise())
    return path


async def repaired(folder: Path, port: int, known: dict[str, Digest] | None = None) -> tuple[list[Checked], int]:
    """Repair all that is bad; what a check finds then, and the bytes fetched."""
    fetched = 0
    async with connected(port) as channel:
        repairer = Repairer(folder, channel, "center")
        for checked in check_folder(folder):
            if checked.is_bad:
                manifest = await repairer.manifest_of(checked, known or {})
                fetched += (await repairer.repair(manifest, checked)).fetched_bytes
    return check_folder(folder), fetched


async def test_only_bad_chunks_are_fetched(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    path = fill(tmp_path / "models", model, manifest)
    bad = damage(path.parent, manifest, 3, -1)
    number = path.stat().st_ino
    async with serving(store) as server:
        (found,), fetched = await repaired(path.parent, server.port)
    assert found.health is Health.OK
    assert fetched == bad
    assert path.read_bytes() == model.read_bytes()
    assert path.stat().st_ino == number, "in place: a worker that maps the file sees the repaired bytes"


async def test_a_file_that_was_cut_gets_its_end_back(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    path = fill(tmp_path / "models", model, manifest)
    with path.open("r+b") as file:
        file.truncate(manifest.size // 2)
    async with serving(store) as server:
        (found,), fetched = await repaired(path.parent, server.port)
    assert found.health is Health.OK
    assert fetched < manifest.size // 2 + (4 << 20)


@pytest.mark.parametrize("lost", ["flipped", "gone"])
async def test_a_lost_manifest_is_fetched_and_the_file_kept(lost: str, tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    path = fill(tmp_path / "models", model, manifest)
    beside = path.with_suffix(".manifest")
    known = {}
    if lost == "flipped":
        beside.write_bytes(bytes(len(manifest.data)))
    else:
        beside.unlink()
        known = known_manifests(book(tmp_path / "channels.json", manifest))
    async with serving(store) as server:
        (found,), fetched = await repaired(path.parent, server.port, known)
    assert found.health is Health.OK
    assert fetched == 0, "every chunk was right"


async def test_a_manifest_that_nobody_knows_is_said_to_be_lost(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    path = fill(tmp_path / "models", model, manifest)
    path.with_suffix(".manifest").unlink()
    async with serving(store) as server:
        with pytest.raises(NotFound, match="does not hold the manifest"):
            await repaired(path.parent, server.port)
    assert path.read_bytes() == model.read_bytes()


async def test_nothing_is_touched_when_the_source_lacks_a_bad_chunk(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    path = fill(tmp_path / "models", model, manifest)
    damage(path.parent, manifest, 3)
    await store.delete(manifest.chunks[3].digest)
    before = sorted((each.name, each.stat().st_mtime_ns) for each in path.parent.iterdir())
    async with serving(store) as server:
        with pytest.raises(SourceLacks, match="lacks 1 of the 1 bad chunks"):
            await repaired(path.parent, server.port)
    assert sorted((each.name, each.stat().st_mtime_ns) for each in path.parent.iterdir()) == before


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"channels": [{"target": {"name": "x"}}]}', b'{"channels": 3}']
)
def test_a_book_that_cannot_be_read_knows_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "channels.json").write_bytes(content)
    assert known_manifests(tmp_path / "channels.json") == {}
    assert known_manifests(tmp_path / "none.json") == {}
