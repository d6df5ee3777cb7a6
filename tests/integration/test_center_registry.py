"""The center's registry, content, fleet and audit services over a real connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from center_node import CenterNode, flip_byte, refusal, running_center
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from center.app import Center
from center.config import CenterSettings
from center.errors import DatabaseUnusable
from deltaic.errors import Code, DeltaicError
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import PortInUse
from deltaic.runtime.data_folder import DataFolderUnusable
from deltaic.trust.audit import AuditEntry, verify
from deltaic.v1 import audit_pb2, content_pb2, fleet_pb2, registry_pb2
from deltaic.weights.digest import Digest

T = 30.0
NOWHERE = "sha256:" + "0" * 64


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path / "center") as running:
        yield running


def watch(node: CenterNode, *names: str, timeout: float = T) -> grpc.aio.UnaryStreamCall:
    return node.registry.WatchChannels(registry_pb2.WatchChannelsRequest(names=names), timeout=timeout)


async def test_health_and_reflection_answer(node: CenterNode) -> None:
    health = health_pb2_grpc.HealthStub(node.channel)
    for service in ("", "deltaic.v1.RegistryService", "deltaic.v1.InferenceService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=T)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(node.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in reflection.ServerReflectionInfo(iter([request]), timeout=T):
        names = {service.name for service in answer.list_services_response.service}
    assert {f"deltaic.v1.{name}Service" for name in ("Content", "Registry", "Inference", "Fleet", "Audit")} <= names


async def test_a_published_file_can_be_found_listed_and_read_back(node: CenterNode, tiny_gguf: Callable) -> None:
    path = tiny_gguf()
    manifest = await node.upload(path)
    revision = await node.publish(manifest.digest)
    assert revision.name == f"models/m/revisions/{manifest.revision}"
    assert revision.file_bytes == path.stat().st_size
    found = await node.registry.GetRevision(registry_pb2.GetRevisionRequest(name=revision.name), timeout=T)
    listed = await node.registry.ListRevisions(registry_pb2.ListRevisionsRequest(model="models/m"), timeout=T)
    assert found.revision == revision
    assert list(listed.revisions) == [revision]
    ranges = [content_pb2.ReadRange(digest=chunk.digest.to_proto()) for chunk in manifest.chunks]
    frames = [frame async for frame in node.content.Read(content_pb2.ReadRequest(ranges=ranges), timeout=T)]
    assert b"".join(frame.data for frame in frames) == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        (f"models/ghost/revisions/{NOWHERE}", Code.NOT_FOUND, "UNKNOWN_MODEL"),
        (f"models/m/revisions/{NOWHERE}", Code.NOT_FOUND, "UNKNOWN_REVISION"),
        ("models/m/channels/stable", Code.INVALID_ARGUMENT, "BAD_NAME"),
        ("nonsense", Code.INVALID_ARGUMENT, "BAD_NAME"),
    ],
)
async def test_a_revision_that_is_none_is_refused(
    node: CenterNode, tiny_gguf: Callable, name: str, code: Code, reason: str
) -> None:
    await node.publish_file(tiny_gguf())
    get = await refusal(node.registry.GetRevision(registry_pb2.GetRevisionRequest(name=name), timeout=T))
    plan = await refusal(node.registry.PlanUpdate(registry_pb2.PlanUpdateRequest(want=name), timeout=T))
    moved = await refusal(
        node.registry.SetChannel(
            registry_pb2.SetChannelRequest(name=f"{name.partition('/revisions')[0]}/channels/stable", revision=name),
            timeout=T,
        )
    )
    assert {(each.code, each.reason) for each in (get, plan, moved)} == {(code, reason)}


async def test_an_unknown_channel_is_not_found(node: CenterNode, tiny_gguf: Callable) -> None:
    await node.publish_file(tiny_gguf())
    for name, reason in (
        ("models/m/channels/stable", "UNKNOWN_CHANNEL"),
        ("models/g/channels/stable", "UNKNOWN_MODEL"),
    ):
        refused = await refusal(node.registry.GetChannel(registry_pb2.GetChannelRequest(name=name), timeout=T))
        assert (refused.code, refused.reason) == (Code.NOT_FOUND, reason)


async def test_a_stale_etag_is_aborted_and_names_the_present_revision(node: CenterNode, tiny_gguf: Callable) -> None:
    one, two, three = [await node.publish_file(tiny_gguf(general_name=name)) for name in ("1", "2", "3")]
    first = await node.move(one.name)
    second = await node.move(two.name, first.etag)
    refused = await refusal(node.move(three.name, first.etag))
    assert (refused.code, refused.reason) == (Code.ABORTED, "STALE_ETAG")
    assert refused.metadata["present_revision"] == two.name
    assert await node.move(two.name) == second
    listed = await node.registry.ListChannels(registry_pb2.ListChannelsRequest(), timeout=T)
    assert list(listed.channels) == [second]


@pytest.mark.parametrize("page", [{"page_size": -1}, {"page_size": 1_001}, {"page_token": "x"}])
async def test_bad_pages_are_refused_by_every_list(node: CenterNode, tiny_gguf: Callable, page: dict) -> None:
    await node.publish_file(tiny_gguf())
    calls = [
        node.registry.ListRevisions(registry_pb2.ListRevisionsRequest(model="models/m", **page), timeout=T),
        node.registry.ListChannels(registry_pb2.ListChannelsRequest(**page), timeout=T),
        node.fleet.ListNodes(fleet_pb2.ListNodesRequest(**page), timeout=T),
        node.audit.ListEntries(audit_pb2.ListEntriesRequest(**page), timeout=T),
    ]
    assert {(await refusal(call)).reason for call in calls} == {"BAD_PAGE"}


async def test_a_watch_gives_the_present_state_and_then_every_move(node: CenterNode, tiny_gguf: Callable) -> None:
    one, two = [await node.publish_file(tiny_gguf(general_name=name)) for name in ("1", "2")]
    await node.move(one.name)
    stream = watch(node, "models/m/channels/stable", "models/m/channels/later")
    assert (await stream.read()).channel.revision == one
    await node.move(one.name, channel="unwatched")
    moved = await node.move(two.name)
    assert (await stream.read()).channel == moved
    made = await node.move(two.name, channel="later")
    assert (await stream.read()).channel == made
    stream.cancel()


async def test_a_watch_of_nothing_in_particular_sees_all_channels(node: CenterNode, tiny_gguf: Callable) -> None:
    revision = await node.publish_file(tiny_gguf())
    stream = watch(node)
    for channel in ("stable", "canary"):
        await node.move(revision.name, channel=channel)
    seen = {(await stream.read()).channel.name for _ in range(2)}
    assert seen == {"models/m/channels/stable", "models/m/channels/canary"}
    stream.cancel()


async def test_a_watch_with_a_bad_name_is_refused(node: CenterNode) -> None:
    for name in ("nonsense", f"models/m/revisions/{NOWHERE}"):
        assert (await refusal(watch(node, name).read())).code is Code.INVALID_ARGUMENT


async def test_a_center_that_stops_ends_its_watches_with_unavailable(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with AsyncExitStack() as stack:
        async with running_center(tmp_path / "center", grace=20.0) as node:
            await node.move((await node.publish_file(tiny_gguf())).name)
            channel = await stack.enter_async_context(open_channel(node.center.address, node="watcher"))
            stream = watch(replace(node, channel=channel))
            await stream.read()
            leaving = asyncio.get_running_loop().time()
        refused = await refusal(stream.read())
    assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "NODE_STOPPING")
    assert asyncio.get_running_loop().time() - leaving < 5.0


async def test_a_plan_counts_what_the_held_revision_saves(node: CenterNode, tiny_gguf: Callable) -> None:
    one = await node.publish_file(tiny_gguf(ballast=1 << 20))
    two = await node.publish_file(tiny_gguf(ballast=1 << 20, chat_template="another"))
    have = [one.name, f"models/ghost/revisions/{NOWHERE}"]
    plan = await node.registry.PlanUpdate(registry_pb2.PlanUpdateRequest(want=two.name, have=have), timeout=T)
    assert plan.revision == two
    assert list(plan.reuse_from) == [one.name]
    assert plan.reuse_bytes > 1 << 20
    assert 0 < plan.fetch_bytes < 10_000
    assert plan.fetch_chunks >= 1
    whole = await node.registry.PlanUpdate(registry_pb2.PlanUpdateRequest(want=two.name), timeout=T)
    assert whole.fetch_bytes > 1 << 20
    assert whole.reuse_bytes == 0


async def test_a_plan_of_too_much_or_of_a_channel_is_refused(node: CenterNode, tiny_gguf: Callable) -> None:
    revision = await node.publish_file(tiny_gguf())
    for have in ([revision.name] * 101, ["models/m/channels/stable"]):
        request = registry_pb2.PlanUpdateRequest(want=revision.name, have=have)
        assert (await refusal(node.registry.PlanUpdate(request, timeout=T))).code is Code.INVALID_ARGUMENT


async def test_a_flipped_byte_in_a_stored_chunk_never_leaves_the_center(node: CenterNode, tiny_gguf: Callable) -> None:
    manifest = await node.upload(tiny_gguf())
    await node.publish(manifest.digest)
    chunk = manifest.chunks[-1].digest
    flip_byte(node.stored(chunk))
    request = content_pb2.ReadRequest(ranges=[content_pb2.ReadRange(digest=chunk.to_proto(), offset=3)])
    assert (await refusal(node.content.Read(request, timeout=T).read())).code is Code.DATA_LOSS


async def test_reports_are_kept_and_listed(node: CenterNode) -> None:
    reports = [fleet_pb2.NodeReport(node=name, version="0.1") for name in ("edge@b", "device@a")]
    await node.fleet.Report(fleet_pb2.ReportRequest(reports=reports), timeout=T)
    first = await node.fleet.ListNodes(fleet_pb2.ListNodesRequest(page_size=1), timeout=T)
    rest = await node.fleet.ListNodes(fleet_pb2.ListNodesRequest(page_token=first.next_page_token), timeout=T)
    assert [each.node for each in (*first.nodes, *rest.nodes)] == ["device@a", "edge@b"]
    nameless = fleet_pb2.ReportRequest(reports=[fleet_pb2.NodeReport()])
    assert (await refusal(node.fleet.Report(nameless, timeout=T))).reason == "BAD_REQUEST"


async def test_the_audit_log_names_the_caller_and_proves_itself(node: CenterNode, tiny_gguf: Callable) -> None:
    revision = await node.publish_file(tiny_gguf())
    channel = await node.move(revision.name)
    listed = await node.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=T)
    assert [(e.action, e.resource, e.actor) for e in listed.entries] == [
        ("REVISION_PUBLISHED", revision.name, "test@here"),
        ("CHANNEL_MOVED", channel.name, "test@here"),
    ]
    proof = await node.audit.ProveEntry(audit_pb2.ProveEntryRequest(sequence=1), timeout=T)
    assert verify(map(AuditEntry.from_proto, proof.chain)) == 2
    proof.chain[0].actor = "somebody else"
    with pytest.raises(DeltaicError, match="was changed"):
        verify(map(AuditEntry.from_proto, proof.chain))
    unknown = await refusal(node.audit.ProveEntry(audit_pb2.ProveEntryRequest(sequence=3), timeout=T))
    assert unknown.code is Code.NOT_FOUND


async def test_everything_is_there_after_a_restart(tmp_path: Path, tiny_gguf: Callable) -> None:
    async with running_center(tmp_path / "center") as node:
        channel = await node.move((await node.publish_file(tiny_gguf())).name)
        await node.fleet.Report(fleet_pb2.ReportRequest(reports=[fleet_pb2.NodeReport(node="edge@a")]), timeout=T)
    async with running_center(tmp_path / "center") as node:
        request = registry_pb2.GetChannelRequest(name=channel.name)
        assert (await node.registry.GetChannel(request, timeout=T)).channel == channel
        listed = await node.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)
        assert [each.node for each in listed.nodes] == ["edge@a"]


async def enter(**settings: object) -> None:
    async with Center(CenterSettings(**settings)).running():  # type: ignore[arg-type]
        raise AssertionError("a center started that must not")


async def test_two_centers_never_share_a_folder(node: CenterNode) -> None:
    with pytest.raises(DataFolderUnusable, match=str(node.data_dir)):
        await enter(listen="127.0.0.1:0", data_dir=node.data_dir)


async def test_a_port_in_use_is_said_in_one_line(node: CenterNode, tmp_path: Path) -> None:
    with pytest.raises(PortInUse, match=node.center.address):
        await enter(listen=node.center.address, data_dir=tmp_path / "other")


async def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderUnusable, match="cannot use the data folder"):
        await enter(listen="127.0.0.1:0", data_dir=tmp_path / "file" / "center")


async def test_a_database_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "center.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseUnusable, match="not a database"):
        await enter(listen="127.0.0.1:0", data_dir=tmp_path)


async def test_a_digest_that_is_too_short_is_refused(node: CenterNode) -> None:
    request = registry_pb2.PublishRevisionRequest(
        request_id="b" * 32, model="models/m", manifest=content_pb2.Digest(sha256=b"short", size=1)
    )
    assert (await refusal(node.registry.PublishRevision(request, timeout=T))).reason == "BAD_DIGEST"


async def test_a_name_of_no_model_is_refused_before_anything_is_read(node: CenterNode) -> None:
    refused = await refusal(node.publish(Digest.of(b"x"), "Not A Model"))
    assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "BAD_NAME")
