"""An edge between a real center and its clients: follows, answers, escalates, mirrors, reports."""

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from center_node import CenterNode, refusal, running_center
from edge_node import ENGINE, INFERENCE, EdgeNode, T, question, running_edge, until
from structlog.testing import capture_logs

from deltaic.errors import Code
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.fetch import fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.v1 import content_pb2, fleet_pb2, inference_pb2, inference_pb2_grpc, registry_pb2
from deltaic.weights.digest import Digest

# One center and one edge for the whole file: a real model takes seconds to publish, fetch and load.
pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
END_OF_TURN = 2  # <|im_end|> of SmolLM2: forbidden, an answer goes on to its last token on the fastest machine
EDGE, CENTER = inference_pb2.NODE_ROLE_EDGE, inference_pb2.NODE_ROLE_CENTER


@shared
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        yield node


@shared
async def first(center: CenterNode, demo_model_path: Path) -> str:
    """The revision that channel `assistant/stable` names."""
    revision = await center.publish_file(demo_model_path, "assistant")
    await center.move(revision.name)
    return revision.name


@shared
async def coder(center: CenterNode, demo_model_path: Path) -> str:
    """A revision that only the center holds; it is loaded there."""
    revision = await center.publish_file(demo_model_path, "coder")
    await center.move(revision.name)
    return revision.name


@shared
async def edge(center: CenterNode, first: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EdgeNode]:
    """Follows `assistant/stable`, and answers with it."""
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, center.center.address, "assistant/stable", metrics="127.0.0.1:0") as node:
        await until(node.serving)
        yield node


async def counts(edge: EdgeNode) -> tuple[int, int, int]:
    """Requests answered, forwarded, failed."""
    nodes = (await edge.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)).nodes
    own = next(node for node in nodes if node.node == "edge@test").requests
    return own.answered, own.forwarded, own.failed


async def test_it_answers_with_the_model_of_the_channel_that_it_follows(edge: EdgeNode, first: str) -> None:
    for model in ("assistant", "assistant/stable", "models/assistant/channels/stable", first):
        text, completion = await edge.ask(model)
        assert text
        assert (completion.answered_by, completion.node, completion.revision) == (EDGE, "edge@test", first)
    listed = (await edge.inference.ListModels(inference_pb2.ListModelsRequest(), timeout=T)).models
    assert [(one.model, one.channel, one.revision) for one in listed] == [
        ("models/assistant", "models/assistant/channels/stable", first)
    ]
    assert listed[0].context_tokens == ENGINE.context_tokens
    counted = await edge.inference.CountTokens(
        inference_pb2.CountTokensRequest(model="assistant", prompt="Say hello."), timeout=T
    )
    assert 0 < counted.tokens < 10


async def test_prometheus_and_status_see_what_its_worker_does(edge: EdgeNode, first: str) -> None:
    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{edge.edge.metrics_port}/metrics", timeout=T) as answer:
            return str(answer.read().decode())

    async def counted() -> bool:
        return re.search(ended, await asyncio.to_thread(scrape)) is not None

    revision = first.rpartition(":")[2][:12]
    labels = f'model="assistant",revision="{revision}",worker="w1"'
    ended = rf'deltaic_worker_requests_total{{how="(length|stop)",{re.escape(labels)}}} [1-9]'
    await edge.ask("assistant")
    await until(counted)
    assert f'deltaic_worker_first_token_seconds_bucket{{le="+Inf",{labels}}}' in await asyncio.to_thread(scrape)
    load = (await edge.own_state()).worker
    assert (load.slots, load.kv_capacity, load.restarts) == (ENGINE.slots, ENGINE.slots * ENGINE.context_tokens, 0)


async def test_a_request_without_a_deadline_gets_one(edge: EdgeNode) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.edge.port}") as plain:
        stub = inference_pb2_grpc.InferenceServiceStub(plain)
        pieces = [piece async for piece in stub.Generate(question("assistant"))]
    assert pieces[-1].HasField("completion")


async def test_what_only_the_center_holds_is_answered_there_and_counted_as_forwarded(
    edge: EdgeNode, coder: str
) -> None:
    answered, forwarded, failed = await counts(edge)
    text, completion = await edge.ask("coder")
    assert text
    assert (completion.answered_by, completion.revision) == (CENTER, coder)
    await edge.ask("assistant")
    assert (await edge.refusal("nobody")).code is Code.NOT_FOUND
    assert await counts(edge) == (answered + 1, forwarded + 1, failed)


@pytest.mark.parametrize("model", ["assistant", "coder"])
async def test_a_client_that_leaves_frees_its_place_here_and_at_the_center(
    edge: EdgeNode, coder: str, model: str
) -> None:
    await edge.ask(model)
    endless = {"max_tokens": 480, "sampling": inference_pb2.Sampling(temperature=1.5, seed=7)}
    calls = [edge.inference.Generate(question(model, **endless), timeout=T) for _ in range(ENGINE.slots)]
    for call in calls:
        await call.read()
    for call in calls:
        call.cancel()
    _, completion = await edge.ask(model)
    assert completion.timings.queue_ms < 1000


async def test_a_short_deadline_ends_an_escalated_request_in_time(edge: EdgeNode, coder: str) -> None:
    await edge.ask("coder")
    endless = inference_pb2.Sampling(logit_bias={END_OF_TURN: -100})
    started = asyncio.get_running_loop().time()
    refused = await edge.refusal("coder", seconds=0.5, max_tokens=480, sampling=endless)
    # Refused at once where the worker knows its pace already.
    assert refused.reason in {"DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT", "NO_TIME_LEFT"}
    assert asyncio.get_running_loop().time() - started < 2


@pytest.mark.parametrize("sensitivity", [inference_pb2.SENSITIVITY_SENSITIVE, 77])
async def test_a_sensitive_request_is_refused_and_not_written_anywhere(edge: EdgeNode, sensitivity: int) -> None:
    secret = "my card is 4111 1111 1111 1111"
    with capture_logs() as logs:
        refused = await edge.refusal("assistant", messages=[], prompt=secret, sensitivity=sensitivity)
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")
    assert secret not in str(logs)
    assert secret not in str(refused)


@pytest.mark.parametrize(
    ("model", "code"), [("", Code.INVALID_ARGUMENT), ("No Name", Code.INVALID_ARGUMENT), ("m/x", Code.NOT_FOUND)]
)
async def test_a_name_that_means_nothing_is_the_clients_fault(edge: EdgeNode, model: str, code: Code) -> None:
    before = await counts(edge)
    assert (await edge.refusal(model)).code is code
    assert await counts(edge) == before


async def test_a_new_version_takes_over_without_a_failed_request_and_the_old_one_is_loaded_when_asked_for(
    center: CenterNode, demo_model_path: Path, tmp_path: Path
) -> None:
    first = (await center.publish_file(demo_model_path, "moving")).name
    await center.move(first)
    tuned = demo_model_path.with_name("smollm2-branch-assistant.Q4_1.gguf")
    answered: dict[int, list[str]] = {1: [], 2: []}
    moved = asyncio.Event()

    async def client(edge: EdgeNode, number: int) -> None:
        while not moved.is_set():
            _, completion = await edge.ask("moving")
            answered[number].append(completion.revision)

    async with running_edge(tmp_path / "edge", center.center.address, "moving/stable") as edge:
        await until(edge.serving)
        async with asyncio.TaskGroup() as clients:
            for number in answered:
                clients.create_task(client(edge, number))
            second = (await center.publish_file(tuned, "moving")).name
            await center.move(second)
            await until(lambda: edge.serves(second))
            await asyncio.sleep(1)
            moved.set()
        for revisions in answered.values():
            assert list(dict.fromkeys(revisions)) == [first, second]
            assert revisions == sorted(revisions, key=[first, second].index)
        state = await edge.own_state()
        assert (state.phase, state.serving_revision) == (fleet_pb2.ModelState.PHASE_READY, second)
        assert 0 < state.progress.wire_bytes < state.progress.full_bytes
        _, completion = await edge.ask(first)
        assert (completion.answered_by, completion.revision) == (EDGE, first)


async def test_devices_read_the_registry_and_every_byte_from_the_edge(
    edge: EdgeNode, first: str, center: CenterNode, tmp_path: Path
) -> None:
    channel = (await edge.registry.GetChannel(_named("assistant"), timeout=T)).channel
    theirs = (await center.registry.GetChannel(_named("assistant"), timeout=T)).channel
    assert channel == theirs
    assert [one.name for one in (await edge.registry.ListChannels(_all(), timeout=T)).channels] == [channel.name]
    revisions = registry_pb2.ListRevisionsRequest(model="models/assistant")
    assert [one.name for one in (await edge.registry.ListRevisions(revisions, timeout=T)).revisions] == [first]
    watch = edge.registry.WatchChannels(registry_pb2.WatchChannelsRequest(), timeout=T)
    assert (await watch.read()).channel == channel
    watch.cancel()
    plan = await edge.registry.PlanUpdate(registry_pb2.PlanUpdateRequest(want=first), timeout=T)
    assert plan.fetch_bytes > 90_000_000
    again = await edge.registry.PlanUpdate(registry_pb2.PlanUpdateRequest(want=first, have=[first]), timeout=T)
    assert (again.fetch_bytes, again.fetch_chunks, list(again.reuse_from)) == (0, 0, [first])
    source = GrpcSource(edge.channel, "edge")
    manifest, _ = await fetch_manifest(source, Digest.from_proto(channel.revision.manifest))
    with ModelFiles(tmp_path / "device").stage(manifest) as staging:
        await fetch(staging, [source])
        staging.commit()


async def test_the_library_is_changed_at_the_center_only(edge: EdgeNode, first: str, center: CenterNode) -> None:
    for call in (
        edge.registry.PublishRevision(registry_pb2.PublishRevisionRequest(), timeout=T),
        edge.registry.SetChannel(registry_pb2.SetChannelRequest(), timeout=T),
        edge.registry.CreateTag(registry_pb2.CreateTagRequest(), timeout=T),
        edge.registry.ListTags(registry_pb2.ListTagsRequest(), timeout=T),
        edge.registry.DeleteTag(registry_pb2.DeleteTagRequest(), timeout=T),
        edge.registry.CollectGarbage(registry_pb2.CollectGarbageRequest(), timeout=T).read(),
    ):
        refused = await refusal(call)
        assert refused.code is Code.UNIMPLEMENTED
        assert center.center.address in str(refused)
    writes = edge.content.QueryWrite(content_pb2.QueryWriteRequest(digest=Digest.of(b"x").to_proto()), timeout=T)
    assert (await refusal(writes)).code is Code.UNIMPLEMENTED


async def test_a_channel_that_is_not_complete_here_is_not_shown(edge: EdgeNode, center: CenterNode, first: str) -> None:
    await center.move(first, channel="canary")
    refused = await refusal(edge.registry.GetChannel(_named("assistant", "canary"), timeout=T))
    assert refused.code is Code.NOT_FOUND


async def test_a_followed_channel_without_a_revision_is_said_to_be_coming(
    edge: EdgeNode, center: CenterNode, tmp_path: Path
) -> None:
    async with running_edge(tmp_path / "edge", center.center.address, "assistant/nightly") as other:
        refused = await other.refusal("assistant/nightly", sensitivity=inference_pb2.SENSITIVITY_UNSPECIFIED)
        public = await other.refusal("assistant/nightly")
    assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "NOT_COMPLETE_YET")
    assert public.code is Code.NOT_FOUND, "the center was asked"


async def test_the_center_hears_of_the_edge_and_of_its_devices(edge: EdgeNode, center: CenterNode) -> None:
    device = fleet_pb2.NodeReport(node="device@ward", role=inference_pb2.NODE_ROLE_DEVICE)
    device.requests.kept_local = 3
    await edge.fleet.Report(fleet_pb2.ReportRequest(reports=[device]), timeout=T)

    async def heard() -> bool:
        nodes = (await center.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)).nodes
        return [node.node for node in nodes] == ["device@ward", "edge@test"] and bool(nodes[1].models)

    await until(heard, 5)
    nodes = (await center.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)).nodes
    assert nodes[0].requests.kept_local == 3
    assert nodes[1].models[0].phase == fleet_pb2.ModelState.PHASE_READY


async def test_health_tells_a_load_balancer_what_answers(center: CenterNode, first: str, tmp_path: Path) -> None:
    async with running_edge(tmp_path / "idle", center.center.address) as idle:
        assert await idle.serving("")
        assert await idle.serving(INFERENCE)
    async with running_edge(tmp_path / "waiting", center.center.address, "ghost/stable") as waiting:
        assert await waiting.serving("deltaic.v1.ContentService"), "devices get content"
        assert not await waiting.serving("")
        assert not await waiting.serving(INFERENCE)


def _named(model: str, channel: str = "stable") -> registry_pb2.GetChannelRequest:
    return registry_pb2.GetChannelRequest(name=f"models/{model}/channels/{channel}")


def _all() -> registry_pb2.ListChannelsRequest:
    return registry_pb2.ListChannelsRequest()
