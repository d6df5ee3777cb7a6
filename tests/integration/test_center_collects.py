"""Tags and collection over a real connection: what is kept, what is freed, and that nothing referred to ever goes."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from center_node import CenterNode, flip_byte, refusal, running_center

from deltaic.errors import Code, DeltaicError
from deltaic.names import RevisionName
from deltaic.rpc.status import from_rpc_error
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.errors import StoreUnreachable
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.fetch import fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.transfer.upload import upload
from deltaic.v1 import audit_pb2, content_pb2, fleet_pb2, registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

T = 30.0
AT_ONCE = {"upload_hours": 0, "keep_previous": 0}
Keeper = registry_pb2.Keeper


async def every_byte(node: CenterNode, revision: registry_pb2.Revision, folder: Path) -> bytes:
    """The file of a revision as an edge fetches it, every chunk of it from this center."""
    source = GrpcSource(node.channel, "center")
    manifest, _ = await fetch_manifest(source, Digest.from_proto(revision.manifest))
    with ModelFiles(folder).stage(manifest) as staging:
        await fetch(staging, [source])
        return staging.commit().read_bytes()


def age(node: CenterNode, hours: float) -> None:
    """Make everything in the store look as if it had rested there for so long."""
    then = time.time() - 3600 * hours
    for path in (node.data_dir / "chunks" / "chunks").glob("??/*"):
        os.utime(path, (then, then))


def needed(*manifests: Manifest) -> set[str]:
    return {digest.hex for manifest in manifests for digest in (manifest.digest, *manifest.unique)}


async def revisions_of(node: CenterNode, model: str = "m") -> list[registry_pb2.Revision]:
    request = registry_pb2.ListRevisionsRequest(model=model, page_size=1_000)
    return list((await node.registry.ListRevisions(request, timeout=T)).revisions)


async def assert_whole(node: CenterNode, model: str = "m") -> None:
    """Every blob of every revision in the catalog can be read, and is right."""
    for revision in await revisions_of(node, model):
        source = GrpcSource(node.channel, "center")
        manifest, _ = await fetch_manifest(source, Digest.from_proto(revision.manifest))
        ranges = [content_pb2.ReadRange(digest=digest.to_proto()) for digest in manifest.unique]
        data = b""
        async for frame in node.content.Read(content_pb2.ReadRequest(ranges=ranges), timeout=T):
            data += frame.data
        position = 0
        for digest in manifest.unique:
            assert digest.matches(data[position : position + digest.size]), revision.name
            position += digest.size


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
        assert not list((node.data_dir / "models").glob(f"{manifests[0].digest.hex}.gguf"))

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


# Publishing beside a collection


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
