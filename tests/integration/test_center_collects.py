"""Tags and collection over a real connection: what is kept, what is freed, and that nothing referred to ever goes."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from center_node import CenterNode, flip_byte, refusal, running_center
from collecting import AT_ONCE, T, assert_whole, every_byte, needed, revisions_of

from deltaic.errors import Code
from deltaic.rpc.status import from_rpc_error
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.errors import StoreUnreachable
from deltaic.v1 import audit_pb2, fleet_pb2, registry_pb2

Keeper = registry_pb2.Keeper


async def test_a_dry_run_says_what_a_collection_then_frees(tmp_path: Path, tiny_gguf: Callable) -> None:
    paths = [tiny_gguf(seed=seed, ballast=300_000) for seed in range(4)]
    async with running_center(tmp_path / "center", **AT_ONCE) as node:
        manifests = [await node.upload(path) for path in paths]
        one, two, three, four = [await node.publish(manifest.digest) for manifest in manifests]
        await node.move(one.name)
        await node.move(two.name)
        await node.move(three.name, channel="canary")
        await node.tag(four.name, "v1.2")
        before = node.blobs()
        said, planned = await node.collect(dry_run=True)
        assert node.blobs() == before, "a dry run deletes nothing"
        assert len(await revisions_of(node)) == 4
        assert said == {
            one.name: [],
            two.name: [Keeper(kind=Keeper.KIND_CHANNEL, name="models/m/channels/stable")],
            three.name: [Keeper(kind=Keeper.KIND_CHANNEL, name="models/m/channels/canary")],
            four.name: [Keeper(kind=Keeper.KIND_TAG, name="models/m/tags/v1.2")],
        }
        gone = before - needed(*manifests[1:])
        sizes = sum(node.stored(digest).stat().st_size for digest in manifests[0].unique if digest.hex in gone)
        assert (planned.freed_revisions, planned.kept_revisions) == (1, 3)
        assert planned.freed_blobs == len(gone)
        assert planned.freed_bytes == sizes + manifests[0].digest.size

        done, summary = await node.collect()
        assert done == said
        for each in (planned, summary):
            each.ClearField("seconds")
        assert summary == planned
        assert node.blobs() == needed(*manifests[1:])
        async with asyncio.timeout(T):  # a delta from it may be in the making, and then it goes when that ends
            while list((node.data_dir / "models").glob(f"{manifests[0].digest.hex}.gguf")):
                await asyncio.sleep(0.01)

        for number, (revision, path) in enumerate(zip((two, three, four), paths[1:], strict=True)):
            assert await every_byte(node, revision, tmp_path / f"edge-{number}") == path.read_bytes()
        channel = await node.registry.GetChannel(
            registry_pb2.GetChannelRequest(name="models/m/channels/stable"), timeout=T
        )
        assert channel.channel.revision == two

        _, again = await node.collect()
        assert (again.freed_revisions, again.freed_blobs, again.freed_bytes) == (0, 0, 0)
        actions = (await node.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=T)).entries
        collected = [(entry.resource, entry.actor) for entry in actions if entry.action == "REVISION_COLLECTED"]
        assert collected == [(one.name, "test@here")]


async def test_a_channel_can_roll_back_as_far_as_was_promised(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, upload_hours=0, keep_previous=2) as node:
        revisions = [await node.publish_file(tiny_gguf(seed=seed)) for seed in range(5)]
        for revision in revisions:
            await node.move(revision.name)
        fates, _ = await node.collect()
        assert [name for name, keepers in fates.items() if not keepers] == [each.name for each in revisions[:2]]
        kinds = [keepers[0].kind for keepers in fates.values() if keepers]
        assert kinds == [Keeper.KIND_PREVIOUS, Keeper.KIND_PREVIOUS, Keeper.KIND_CHANNEL]
        await node.move(revisions[2].name)
        await assert_whole(node)


async def test_what_a_node_reports_to_serve_is_leased(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        old, new = [await node.publish_file(tiny_gguf(seed=seed)) for seed in (1, 2)]
        await node.move(old.name)
        await node.move(new.name)
        state = fleet_pb2.ModelState(channel="models/m/channels/stable", serving_revision=old.name)
        report = fleet_pb2.NodeReport(node="edge-1", models=[state])
        await node.fleet.Report(fleet_pb2.ReportRequest(reports=[report]), timeout=T)
        fates, _ = await node.collect()
        assert fates[old.name] == [Keeper(kind=Keeper.KIND_NODE, name="edge-1")]
        await assert_whole(node)
        state.serving_revision = new.name
        report = fleet_pb2.NodeReport(node="edge-1", models=[state])
        await node.fleet.Report(fleet_pb2.ReportRequest(reports=[report]), timeout=T)
        _, summary = await node.collect()
        assert summary.freed_revisions == 1


async def test_by_default_nothing_young_is_freed(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        await node.upload(tiny_gguf(seed=1))  # a publish that is under way, or was given up
        published = await node.publish_file(tiny_gguf(seed=2))
        before = node.blobs()
        fates, summary = await node.collect()
        assert fates == {published.name: [Keeper(kind=Keeper.KIND_PUBLISH)]}
        assert summary.freed_blobs == 0
        assert summary.recent_blobs > 0
        assert node.blobs() == before


async def test_two_models_with_one_file_keep_it_for_each_other(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        manifest = await node.upload(tiny_gguf())
        await node.publish(manifest.digest, "gone")
        kept = await node.publish(manifest.digest, "kept")
        await node.move(kept.name)
        _, summary = await node.collect()
        assert (summary.freed_revisions, summary.freed_blobs) == (1, 0)
        await assert_whole(node, "kept")


async def test_what_is_not_a_blob_is_left_alone(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        manifest = await node.upload(tiny_gguf())
        store = node.data_dir / "chunks"
        chunk = next(iter(manifest.unique)).hex
        foreign = [store / "notes.txt", store / "chunks" / "ab.txt", store / "chunks" / chunk[:2] / f"{chunk}.orig"]
        for path in foreign:
            path.write_bytes(b"mine")
        beside = store / "chunks" / chunk[:2] / (chunk[:2] + "0" * 62)
        beside.symlink_to(foreign[0])
        folder = store / "chunks" / chunk[:2] / (chunk[:2] + "1" * 62)
        folder.mkdir()
        unreadable = os.fsencode(store / "chunks" / chunk[:2]) + b"/\xff\xfe"
        Path(os.fsdecode(unreadable)).write_bytes(b"mine")
        _, summary = await node.collect()
        assert summary.freed_blobs == len(needed(manifest))
        assert all(path.read_bytes() == b"mine" for path in [*foreign, Path(os.fsdecode(unreadable)), beside])
        assert folder.is_dir()


@pytest.mark.parametrize("harm", ["flipped", "gone"])
async def test_a_kept_manifest_that_cannot_be_read_stops_all_deletion(
    tmp_path: Path, tiny_gguf: Callable, harm: str
) -> None:
    path = tiny_gguf(seed=1)
    async with running_center(tmp_path, **AT_ONCE) as node:
        manifest = await node.upload(path)
        kept = await node.publish(manifest.digest)
        await node.move(kept.name)
        await node.publish_file(tiny_gguf(seed=2))
        stored = node.stored(manifest.digest)
        flip_byte(stored, 3) if harm == "flipped" else stored.unlink()
        before = node.blobs()
        refused = await refusal(node.collect())
        assert (refused.code, refused.reason) == (Code.DATA_LOSS, "NEEDS_UNKNOWN")
        assert kept.name in refused.message
        assert node.blobs() == before
        await node.upload(path)
        _, summary = await node.collect()
        assert summary.freed_blobs > 0
        await assert_whole(node)


async def test_a_second_collection_is_told_to_wait(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        for seed in range(3):
            await node.publish_file(tiny_gguf(seed=seed))
        outcomes = await asyncio.gather(*(attempt(node) for _ in range(6)))
        assert "done" in outcomes
        assert set(outcomes) <= {"done", "COLLECTION_BUSY"}
        assert await revisions_of(node) == []


async def attempt(node: CenterNode) -> str:
    try:
        await node.collect()
    except grpc.RpcError as error:
        return from_rpc_error(error, "center").reason
    return "done"


async def test_tags_over_the_wire(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path) as node:
        one, two = [await node.publish_file(tiny_gguf(seed=seed)) for seed in (1, 2)]
        made = await node.tag(one.name, "v1")
        assert made.revision == one
        moved = await refusal(node.tag(two.name, "v1"))
        assert (moved.code, moved.reason) == (Code.ALREADY_EXISTS, "TAG_TAKEN")
        odd = await refusal(node.tag(two.name, "2024"))
        assert (odd.code, odd.reason) == (Code.INVALID_ARGUMENT, "BAD_NAME")
        listed = await node.registry.ListTags(registry_pb2.ListTagsRequest(model="models/m"), timeout=T)
        assert list(listed.tags) == [made]
        await node.registry.DeleteTag(registry_pb2.DeleteTagRequest(name=made.name), timeout=T)
        gone = await refusal(node.registry.DeleteTag(registry_pb2.DeleteTagRequest(name=made.name), timeout=T))
        assert (gone.code, gone.reason) == (Code.NOT_FOUND, "UNKNOWN_TAG")
        entries = (await node.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=T)).entries
        assert [entry.action for entry in entries][-2:] == ["TAG_CREATED", "TAG_DELETED"]


async def test_a_store_that_another_catalog_uses_is_not_collected(tmp_path: Path, tiny_gguf: Callable) -> None:
    shared = str(tmp_path / "shared")
    async with (
        running_center(tmp_path / "one", chunks=shared, **AT_ONCE) as one,
        running_center(tmp_path / "two", chunks=shared, **AT_ONCE) as two,
    ):
        await one.move((await one.publish_file(tiny_gguf(seed=1))).name)
        await two.move((await two.publish_file(tiny_gguf(seed=2))).name)
        for node in (one, two):
            refused = await refusal(node.collect())
            assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "STORE_SHARED")
            assert "catalogs/" in str(refused)
            await assert_whole(node)


async def test_chunks_that_outlive_their_catalog_are_not_collected_by_the_next(
    tmp_path: Path, tiny_gguf: Callable
) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        await node.publish_file(tiny_gguf())
        before = node.blobs()
    for path in tmp_path.glob("center.db*"):
        path.unlink()
    async with running_center(tmp_path, **AT_ONCE) as node:
        assert (await refusal(node.collect())).reason == "STORE_SHARED"
        assert node.blobs() == before


async def test_a_center_that_is_told_to_collects_by_itself(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path, **AT_ONCE) as node:
        kept = await node.upload(tiny_gguf(seed=1))
        await node.move((await node.publish(kept.digest)).name)
        await node.publish_file(tiny_gguf(seed=2))
    async with running_center(tmp_path, collect_hours=1e-5, name="center@cloud", **AT_ONCE) as node:
        async with asyncio.timeout(T):
            while node.blobs() != needed(kept):
                await asyncio.sleep(0.01)
        entries = (await node.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=T)).entries
        assert (entries[-1].action, entries[-1].actor) == ("REVISION_COLLECTED", "center@cloud")
        await assert_whole(node)


async def test_a_center_starts_also_when_its_store_takes_no_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(store: ObjectChunkStore, catalog: str) -> None:
        raise StoreUnreachable("the line to the bucket is cut")

    monkeypatch.setattr(ObjectChunkStore, "sign", refused)
    async with running_center(tmp_path) as node:
        assert (await node.registry.ListTags(registry_pb2.ListTagsRequest(), timeout=T)).tags == []
