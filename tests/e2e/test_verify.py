"""`deltaic verify` on the data folder of a node, and a repair from another node on loopback."""

import asyncio
import json
from pathlib import Path

import pytest

from deltaic.rpc.server import Server
from deltaic.runtime.data_folder import own_data_folder
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.v1 import content_pb2_grpc
from deltaic.weights.manifest import Manifest
from tests.e2e.conftest import Deltaic, one_line


def fill(data_dir: Path, model: Path) -> Manifest:
    """A data folder as a node leaves it, with one revision in it."""
    manifest = Manifest.build(model)
    content = model.read_bytes()
    with ModelFiles(data_dir / "models").stage(manifest) as staging:
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        staging.commit()
    return manifest


@pytest.fixture
def manifest(tiny_gguf, tmp_path: Path) -> Manifest:
    return fill(tmp_path / "edge", tiny_gguf("tiny.gguf", ballast=20 << 20))


def damage(data_dir: Path, manifest: Manifest, number: int) -> int:
    """Flip a bit of one chunk; its size in bytes."""
    chunk = manifest.chunks[number]
    with (data_dir / "models" / f"{manifest.digest.hex}.gguf").open("r+b") as file:
        file.seek(chunk.offset)
        byte = file.read(1)[0]
        file.seek(chunk.offset)
        file.write(bytes([byte ^ 1]))
    return chunk.digest.size


def test_a_good_folder_is_ok_and_a_damaged_one_is_exit_status_1(
    deltaic: Deltaic, manifest: Manifest, tmp_path: Path
) -> None:
    folder = str(tmp_path / "edge")
    good = deltaic("verify", "--data-dir", folder)
    assert (good.returncode, good.stderr) == (0, "")
    header, row = good.stdout.splitlines()[:2]
    assert header.split()[:3] == ["revision", "file", "bytes"]
    assert row.split()[0] == manifest.revision
    assert row.split()[-1] == "ok"
    size = damage(tmp_path / "edge", manifest, -2)
    bad = deltaic("verify", "--data-dir", folder)
    assert bad.returncode == 1
    assert f"{size:,}" in bad.stdout.splitlines()[1]
    assert f"deltaic verify --data-dir {folder} --repair --from HOST:PORT" in bad.stdout
    said = json.loads(deltaic("verify", "--data-dir", folder, "--json").stdout)
    assert said["ok"] is False
    (revision,) = said["revisions"]
    assert (revision["state"], revision["bad_chunks"], revision["bad_bytes"]) == ("damaged", 1, size)


async def test_a_repair_fetches_only_what_is_bad(
    deltaic: Deltaic, manifest: Manifest, tiny_gguf, tmp_path: Path
) -> None:
    model = tiny_gguf("tiny.gguf", ballast=20 << 20)
    fill(tmp_path / "other", model)
    size = damage(tmp_path / "edge", manifest, -2)
    server = Server("127.0.0.1:0")
    add = content_pb2_grpc.add_ContentServiceServicer_to_server
    server.add(add, ContentServicer(ModelFiles(tmp_path / "other" / "models"), None), "deltaic.v1.ContentService")
    async with server.running(grace=0.1):
        repair = ("verify", "--data-dir", str(tmp_path / "edge"), "--repair", "--from", f"127.0.0.1:{server.port}")
        with own_data_folder(tmp_path / "edge", "edge"):
            line = one_line(await asyncio.to_thread(deltaic, *repair))
            assert "edge (process " in line
            assert "stop it and run this again, or restart it" in line
            looked = await asyncio.to_thread(deltaic, "verify", "--data-dir", str(tmp_path / "edge"))
            assert looked.returncode == 1, "looking works while a node has the folder"
        done = await asyncio.to_thread(deltaic, *repair, "--json")
    assert done.returncode == 0, done.stderr
    (revision,) = json.loads(done.stdout)["revisions"]
    assert (revision["state"], revision["bad_chunks"], revision["fetched_bytes"]) == ("repaired", 1, size)
    file = tmp_path / "edge" / "models" / f"{manifest.digest.hex}.gguf"
    assert file.read_bytes() == model.read_bytes()
    assert deltaic("verify", "--data-dir", str(tmp_path / "edge")).returncode == 0


def test_a_source_that_does_not_answer_changes_nothing(deltaic: Deltaic, manifest: Manifest, tmp_path: Path) -> None:
    damage(tmp_path / "edge", manifest, -2)
    before = sorted(path.name for path in (tmp_path / "edge" / "models").iterdir())
    line = one_line(deltaic("verify", "--data-dir", str(tmp_path / "edge"), "--repair", "--from", "127.0.0.1:1"))
    assert "no answer from node 127.0.0.1:1" in line
    assert sorted(path.name for path in (tmp_path / "edge" / "models").iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data-dir", "/none"], "no folder models in /none"),
        (["--data-dir", "{folder}", "--repair"], "--repair and --from HOST:PORT go together"),
        (["--data-dir", "{folder}", "--from", "127.0.0.1:1"], "--repair and --from HOST:PORT go together"),
    ],
)
def test_mistakes_are_one_line(
    deltaic: Deltaic, manifest: Manifest, tmp_path: Path, arguments: list[str], says: str
) -> None:
    assert says in one_line(deltaic("verify", *(each.format(folder=tmp_path / "edge") for each in arguments)))
