"""A center killed in the middle of a collection: whatever it leaves is a valid center, and the next one goes on."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from center_node import CenterNode, running_center

from cli.demo.processes import free_port
from cli.fleet import is_serving
from deltaic.errors import DeltaicError
from deltaic.rpc.channel import open_channel
from deltaic.trust.audit import AuditEntry, verify
from deltaic.v1 import audit_pb2, content_pb2, registry_pb2, registry_pb2_grpc
from deltaic.weights.manifest import Manifest

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")

T = 60.0
REVISIONS = 20
AT_ONCE = {"upload_hours": 0, "keep_previous": 0}
PROGRAM = Path(__file__).with_name("dying_center.py")


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "chunks" / "chunks").glob("??/*")}


@dataclass(frozen=True)
class Prepared:
    """A center's folder with one revision that a channel names and many that nothing keeps."""

    folder: Path
    kept: Manifest

    @property
    def needed(self) -> set[str]:
        return {digest.hex for digest in (self.kept.digest, *self.kept.unique)}


@shared
async def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Callable) -> AsyncIterator[Prepared]:
    folder = tmp_path_factory.mktemp("prepared") / "center"
    async with running_center(folder, **AT_ONCE, cache_bytes=0) as node:
        kept = await node.upload(tiny_gguf(seed=0))
        await node.move((await node.publish(kept.digest)).name)
        for seed in range(1, REVISIONS):
            await node.publish_file(tiny_gguf(seed=seed))
    yield Prepared(folder, kept)


async def collect_until_it_dies(folder: Path, place: str, count: int) -> None:
    """Start a center that kills itself there, and have it collect."""
    address = f"127.0.0.1:{free_port()}"
    flags = ("--data-dir", str(folder), "--listen", address, "--upload-hours", "0", "--keep-previous", "0")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTAIC_")}
    environment["PYTHONPATH"] = str(PROGRAM.parents[2])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), place, str(count), *flags),
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    deadline = time.monotonic() + T
    while not await serves(address):
        assert process.returncode is None, "it did not even start"
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    async with open_channel(address, node="test@here") as channel:
        call = registry_pb2_grpc.RegistryServiceStub(channel).CollectGarbage(
            registry_pb2.CollectGarbageRequest(), timeout=T
        )
        with pytest.raises(grpc.RpcError):
            assert [news async for news in call] == [], "it was not killed in time"
    assert await process.wait() == -signal.SIGKILL


async def serves(address: str) -> bool:
    try:
        return await is_serving(address)
    except DeltaicError:
        return False


async def assert_valid(node: CenterNode) -> list[registry_pb2.Revision]:
    """Channels name what is there, every revision is whole, the log is a chain and has what happened; the revisions."""
    (channel,) = (await node.registry.ListChannels(registry_pb2.ListChannelsRequest(), timeout=T)).channels
    request = registry_pb2.ListRevisionsRequest(model="m", page_size=1_000)
    revisions = list((await node.registry.ListRevisions(request, timeout=T)).revisions)
    assert channel.revision in revisions
    for revision in revisions:
        digits = revision.manifest.sha256.hex()
        manifest = Manifest.parse((node.data_dir / "chunks" / "chunks" / digits[:2] / digits).read_bytes())
        asked = content_pb2.FindMissingRequest(digests=[digest.to_proto() for digest in manifest.unique])
        assert not (await node.content.FindMissing(asked, timeout=T)).missing, revision.name
    entries = (await node.audit.ListEntries(audit_pb2.ListEntriesRequest(page_size=1_000), timeout=T)).entries
    assert verify(map(AuditEntry.from_proto, entries)) == len(entries)
    collected = {entry.resource for entry in entries if entry.action == "REVISION_COLLECTED"}
    assert len(collected) == REVISIONS - len(revisions)
    assert not collected & {revision.name for revision in revisions}
    return revisions


@pytest.mark.parametrize(
    ("place", "count", "revisions_left"),
    [
        ("remove", 1, REVISIONS),
        ("remove", REVISIONS - 1, REVISIONS),
        ("removed", 1, 1),
        ("delete", 1, 1),
        ("delete", 40, 1),
    ],
)
async def test_a_kill_leaves_a_valid_center_that_finishes_later(
    prepared: Prepared, tmp_path: Path, place: str, count: int, revisions_left: int
) -> None:
    folder = tmp_path / "center"
    shutil.copytree(prepared.folder, folder)
    before = blobs(folder)
    await collect_until_it_dies(folder, place, count)
    left = blobs(folder)
    assert len(before - left) == (count if place == "delete" else 0)
    assert prepared.needed <= left, "what the channel names was never touched"

    async with running_center(folder, upload_hours=24, keep_previous=0) as node:
        assert len(await assert_valid(node)) == revisions_left
    async with running_center(folder, **AT_ONCE) as node:
        await node.collect()
        assert len(await assert_valid(node)) == 1
        assert blobs(folder) == prepared.needed
    assert not (folder / "digests.tmp").exists()
