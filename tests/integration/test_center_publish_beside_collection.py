"""Publishing while the center collects: a publish under way loses nothing, and what is in is in whole."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from center_node import CenterNode, refusal, running_center
from collecting import AT_ONCE, T, age, assert_whole, needed, revisions_of

from deltaic.errors import Code, DeltaicError
from deltaic.names import RevisionName
from deltaic.rpc.status import from_rpc_error
from deltaic.transfer.fetch import fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.transfer.upload import upload
from deltaic.v1 import content_pb2, registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest


async def test_a_publish_that_was_told_what_is_held_finds_it_held(tmp_path: Path, tiny_gguf: Callable) -> None:
    """An old upload without a revision: asked for again it is held, and the collection in between leaves it."""
    path = tiny_gguf(ballast=200_000)
    async with running_center(tmp_path, keep_previous=0) as node:
        manifest = await node.upload(path)
        stranger = await node.upload(tiny_gguf(seed=9))
        age(node, hours=48)
        again = await upload(path, manifest, node.channel, target="center")
        assert again.sent_bytes == 0, "everything was said to be held"
        _, summary = await node.collect()
        assert summary.freed_blobs == len(needed(stranger) - needed(manifest))
        published = await node.publish(manifest.digest)
        assert published.name.endswith(manifest.revision)
        await assert_whole(node)


async def test_what_was_collected_first_is_sent_again(tmp_path: Path, tiny_gguf: Callable) -> None:
    path = tiny_gguf()
    async with running_center(tmp_path) as node:
        manifest = await node.upload(path)
        age(node, hours=48)
        await node.collect()
        assert node.blobs() == set()
        again = await upload(path, manifest, node.channel, target="center")
        assert again.held_bytes == 0
        await node.publish(manifest.digest)
        await assert_whole(node)


@pytest.mark.parametrize("upload_hours", [0, 24])
async def test_a_collection_during_the_trial_load(tmp_path: Path, tiny_gguf: Callable, upload_hours: float) -> None:
    """With a grace time the publish succeeds; without, it is refused; never is a revision left without its bytes."""
    trying, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_name: RevisionName, _path: Path) -> None:
        trying.set()
        await go_on.wait()

    async with running_center(tmp_path, trial_load=slow, upload_hours=upload_hours) as node:
        manifest = await node.upload(tiny_gguf())
        publishing = asyncio.ensure_future(node.publish(manifest.digest))
        await trying.wait()
        _, summary = await node.collect()
        go_on.set()
        if upload_hours:
            assert summary.freed_blobs == 0
            assert (await publishing).name.endswith(manifest.revision)
            await assert_whole(node)
        else:
            assert summary.freed_blobs == len(needed(manifest))
            refused = await refusal(publishing)
            assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "BLOBS_MISSING")


async def test_publishers_and_a_collector_that_never_rests_leave_every_revision_whole(
    tmp_path: Path, tiny_gguf: Callable
) -> None:
    """No grace at all and a collector in a loop: a publish may have to be repeated, but what is in is in whole."""
    paths = [tiny_gguf(seed=seed % 3, general_name=f"{seed}", ballast=150_000) for seed in range(12)]
    stop, freed, refusals = asyncio.Event(), [], []

    async def collecting(node: CenterNode) -> None:
        while not stop.is_set():
            _, summary = await node.collect()
            freed.append(summary.freed_blobs)

    async def publishing(node: CenterNode, channel: str, mine: list[Path]) -> None:
        for path in mine:
            manifest = Manifest.build(path)
            for _ in range(200):
                try:
                    await upload(path, manifest, node.channel, target="center")
                    revision = await node.publish(manifest.digest)
                    await node.move(revision.name, channel=channel)
                    break
                except grpc.RpcError as error:
                    refusals.append(from_rpc_error(error, "center").reason)
                except DeltaicError as error:
                    refusals.append(error.reason)
            else:
                pytest.fail(f"never published: {refusals[-5:]}")
            await assert_whole_but_for_what_goes(node)

    async with running_center(tmp_path, **AT_ONCE) as node:
        collector = asyncio.create_task(collecting(node))
        await asyncio.gather(*(publishing(node, f"c{lane}", paths[lane::3]) for lane in range(3)))
        stop.set()
        await collector
        await node.collect()
        await assert_whole(node)
        named = (await node.registry.ListChannels(registry_pb2.ListChannelsRequest(), timeout=T)).channels
        assert len(named) == 3
        assert {each.revision.name for each in named} == {each.name for each in await revisions_of(node)}
    assert sum(freed) > 0, "the collector found nothing to free, so nothing was tried"
    assert set(refusals) <= {"BLOBS_MISSING", "UNKNOWN_REVISION", "CHUNK_NOT_FOUND"}, set(refusals)


async def assert_whole_but_for_what_goes(node: CenterNode) -> None:
    """A revision may be collected between being listed and being read; one that is still there must be whole."""
    for revision in await revisions_of(node):
        try:
            source = GrpcSource(node.channel, "center")
            manifest, _ = await fetch_manifest(source, Digest.from_proto(revision.manifest))
            request = content_pb2.FindMissingRequest(digests=[digest.to_proto() for digest in manifest.unique])
            missing = (await node.content.FindMissing(request, timeout=T)).missing
        except DeltaicError:
            missing = ["its manifest"]
        if missing:
            get = registry_pb2.GetRevisionRequest(name=revision.name)
            assert (await refusal(node.registry.GetRevision(get, timeout=T))).code is Code.NOT_FOUND
