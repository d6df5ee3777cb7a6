"""Operating a real edge: its desk, its metrics, and what it says to the center's log after days alone."""

import asyncio
import json
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from center_node import CenterNode, running_center
from edge_node import ENGINE, INFERENCE, EdgeClient, EdgeNode, EdgeProcess, question, running_edge, until
from line import Line
from prometheus_client.parser import text_string_to_metric_families

from deltaic.rpc.status import from_rpc_error
from deltaic.trust.audit import AuditEntry, verify
from deltaic.v1 import audit_pb2, fleet_pb2, inference_pb2

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
CONTENT = "deltaic.v1.ContentService"
DASHBOARD = Path(__file__).resolve().parents[2] / "compose" / "grafana" / "edge.json"


@shared
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        yield node


@shared
async def revision(center: CenterNode, demo_model_path: Path) -> str:
    """`assistant/stable` and `coder/stable` name the same file."""
    manifest = await center.upload(demo_model_path)
    published = [await center.publish(manifest.digest, model) for model in ("assistant", "coder")]
    for each in published:
        await center.move(each.name)
    return published[0].name


@shared
async def edge(center: CenterNode, revision: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EdgeNode]:
    folder = tmp_path_factory.mktemp("edge")
    settings = {"http": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    async with running_edge(folder, center.center.address, "assistant/stable", **settings) as node:
        await until(node.serving)
        yield node


async def status(edge: EdgeClient) -> fleet_pb2.NodeStatus:
    return (await edge.fleet.GetNode(fleet_pb2.GetNodeRequest(), timeout=10)).status


async def log_of(center: CenterNode, node: str) -> list[AuditEntry]:
    """What a node said in the center's log; the whole chain is checked."""
    entries: list[AuditEntry] = []
    request = audit_pb2.ListEntriesRequest(page_size=1_000)
    while True:
        page = await center.audit.ListEntries(request, timeout=10)
        entries += [AuditEntry.from_proto(entry) for entry in page.entries]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    verify(entries)
    return [entry for entry in entries if entry.actor == node]


async def fetch(port: int, path: str) -> tuple[int, bytes]:
    def get() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return await asyncio.to_thread(get)


async def test_the_status_says_what_is_held_why_and_where_requests_were_answered(edge: EdgeNode, revision: str) -> None:
    await edge.ask("assistant")
    await edge.ask("coder")
    refused = await edge.refusal("assistant", sensitivity=inference_pb2.SENSITIVITY_SENSITIVE)
    assert refused.reason == "SENSITIVE_NOT_ALLOWED"
    await until(lambda: _is_up(edge), 10)
    now = await status(edge)
    assert (now.places.local, now.places.center, now.places.refused) == (1, 1, 1)
    (held,) = now.held
    assert (held.revision, held.loaded, held.pinned) == (revision, True, True)
    assert held.why == "followed as stable"
    assert 0 < held.memory_bytes == now.hot_bytes < now.hot_budget_bytes
    assert now.serving
    assert list(now.reasons) == []
    assert sum(now.fetched.wire_bytes.values()) > 50_000_000
    assert now.report.models[0].worker.slots == 2


async def _is_up(edge: EdgeClient) -> bool:
    return (await status(edge)).line.up


async def command(edge: EdgeNode, *words: str) -> str:
    """What `deltaic edge ...` prints."""
    at = ("--at", f"127.0.0.1:{edge.edge.port}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "edge", *words, *at), stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await process.communicate()
    assert process.returncode == 0
    return shown.decode()


async def test_the_commands_show_it_to_people_and_to_scripts_and_drain(edge: EdgeNode) -> None:
    shown = await command(edge, "status")
    assert "edge@test" in shown
    assert "loaded, pinned" in shown
    assert "followed as stable" in shown
    told = json.loads(await command(edge, "status", "--json"))
    assert told["held"][0]["pinned"] is True
    assert told["serving"] is True
    try:
        assert "draining" in await command(edge, "drain")
        assert "takes none: this edge is draining" in await command(edge, "status")
    finally:
        assert "takes requests again" in await command(edge, "drain", "--undo")


async def test_draining_refuses_what_is_new_ends_what_runs_and_feeds_devices(edge: EdgeNode) -> None:
    pieces = aiter(edge.inference.Generate(question("assistant", max_tokens=120), timeout=60))
    await anext(pieces)
    answer = await edge.fleet.DrainNode(fleet_pb2.DrainNodeRequest(), timeout=10)
    assert (answer.draining, answer.in_flight) == (True, 1)
    try:
        assert not await edge.serving("")
        assert not await edge.serving(INFERENCE)
        assert await edge.serving(CONTENT)
        code, body = await fetch(edge.edge.http_port, "/healthz")
        assert code == 503
        assert "draining" in json.loads(body)["reasons"][0]
        refused = await edge.refusal("assistant")
        assert refused.reason == "EDGE_DRAINING"
        assert int(refused.metadata["retry_after_ms"]) > 0
        rest = [piece async for piece in pieces]
        assert rest[-1].HasField("completion"), "what ran has ended whole"
    finally:
        await edge.fleet.DrainNode(fleet_pb2.DrainNodeRequest(undo=True), timeout=10)
    assert await edge.serving("")
    assert (await fetch(edge.edge.http_port, "/healthz"))[0] == 200
    await edge.ask("assistant")


async def test_every_query_of_the_dashboard_names_metrics_that_are_there(edge: EdgeNode) -> None:
    await edge.ask("assistant")
    names: set[str] = set()
    labels: dict[str, set[str]] = {}

    async def scraped() -> bool:
        code, text = await fetch(edge.edge.metrics_port, "/metrics")
        assert code == 200
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                names.add(sample.name)
                labels.setdefault(sample.name, set()).update(sample.labels)
        return "deltaic_worker_first_token_seconds_bucket" in names

    await until(scraped, 20)
    queries = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    asked = {name for query in queries for name in re.findall(r"\bdeltaic_\w+", query)}
    assert asked <= names, asked - names
    shown = {name for name in names if name.startswith("deltaic_edge_") and not name.endswith("_created")}
    assert shown <= asked, f"nobody looks at {shown - asked}"
    for query in queries:
        used = {word for group in re.findall(r"by \(([^)]*)\)", query) for word in re.split(r",\s*", group)}
        used |= set(re.findall(r"(\w+)!?=", query))
        (name, *_) = re.findall(r"\bdeltaic_\w+", query)
        assert used - {"instance"} <= labels[name], query


async def test_what_an_edge_did_alone_is_in_the_centers_log_once_in_order_and_without_prompts(
    center: CenterNode, revision: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    secret = "zyzzyva"
    async with Line(int(center.center.address.rpartition(":")[2])) as line:
        flags = ("--channels", "assistant/stable", "--name", "edge@alone")
        process = EdgeProcess(tmp_path / "edge", unused_tcp_port, f"127.0.0.1:{line.port}", *flags)
        try:
            await process.start()
            async with process.client() as client:
                await until(client.serving)
            line.take_down()
            for _ in range(3):  # alone: killed at any moment, started again without a center
                await process.kill()
                await process.start()
                async with process.client() as client:
                    await until(client.serving)
                    await client.ask("assistant", messages=[inference_pb2.ChatMessage(role="user", content=secret)])
                    await client.fleet.DrainNode(fleet_pb2.DrainNodeRequest(), timeout=10)
            assert await process.end() == 0
            await process.start()
            async with process.client() as client:
                await until(client.serving)
                waiting = (await status(client)).spool
                assert waiting.entries > 10
                line.bring_back()

                async def delivered() -> bool:
                    spool = (await status(client)).spool
                    return spool.entries == 0 and spool.delivered_sequence >= waiting.last_sequence

                await until(delivered, 60)
            said = await log_of(center, "edge@alone")
        finally:
            await process.kill()
    numbers = [int(entry.details["node_sequence"]) for entry in said]
    assert numbers == list(range(1, len(said) + 1))
    actions = [entry.action for entry in said]
    assert actions.count("EDGE_STARTED") == 5
    assert actions.count("EDGE_DRAINED") == 3
    assert actions.count("EDGE_STOPPED") == 1
    assert actions.count("EDGE_SWITCHED") == actions.count("EDGE_LOADED") == 5
    answered = [entry for entry in said if entry.action == "EDGE_ANSWERED"]
    assert [(entry.resource, entry.details["count"]) for entry in answered] == [(revision, "1")]
    assert secret not in repr(said)


async def test_settings_change_while_it_runs_and_a_wrong_file_changes_nothing(
    center: CenterNode, revision: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('channels = ["assistant/stable"]\nfetch_rate = "8MiB"\n')
    process = EdgeProcess(tmp_path / "edge", unused_tcp_port, center.center.address, "--config", str(file))
    try:
        await process.start()
        async with process.client() as client:
            await until(client.serving)
            file.write_text(
                'channels = ["coder/stable"]\nfetch_rate = ""\nhot_bytes = "2GiB"\nlog_level = "debug"\n'
                'peers = ["127.0.0.1:9"]\nbranch = "other"\n'
            )
            done = await client.fleet.ReloadNode(fleet_pb2.ReloadNodeRequest(), timeout=60)
            assert set(done.applied) == {"channels", "fetch_rate", "hot_bytes", "log_level", "peers"}
            assert list(done.need_restart) == ["branch"]

            async def follows_the_other() -> bool:
                state = (await status(client)).report.models
                return [each.channel for each in state if each.phase == each.PHASE_READY] == [_channel("coder")]

            await until(follows_the_other)
            assert (await status(client)).hot_budget_bytes == 2 << 30
            assert (await client.ask("coder"))[1].answered_by == inference_pb2.NODE_ROLE_EDGE

            file.write_text("channels = [\n")
            with pytest.raises(grpc.RpcError) as caught:
                await client.fleet.ReloadNode(fleet_pb2.ReloadNodeRequest(), timeout=60)
            assert from_rpc_error(caught.value, "edge").reason == "BAD_SETTINGS"
            assert (await client.ask("coder"))[1].answered_by == inference_pb2.NODE_ROLE_EDGE

            file.write_text('channels = ["coder/stable", "assistant/stable"]\nhot_bytes = "3GiB"\n')
            process.send(signal.SIGHUP)

            async def follows_both() -> bool:
                now = await status(client)
                ready = {each.channel for each in now.report.models if each.phase == each.PHASE_READY}
                return ready == {_channel("coder"), _channel("assistant")} and now.hot_budget_bytes == 3 << 30

            await until(follows_both)
            assert '"debug"' in process.log.read_text()
    finally:
        await process.kill()


def _channel(model: str) -> str:
    return f"models/{model}/channels/stable"


async def test_another_node_than_an_edge_says_that_it_has_no_desk(center: CenterNode) -> None:
    call: Any = center.fleet.GetNode(fleet_pb2.GetNodeRequest(), timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        await call
    assert from_rpc_error(caught.value, "center").reason == "UNIMPLEMENTED"
