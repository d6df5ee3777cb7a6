"""Edges of one branch with one index between them: they answer for each other, and pull a version once."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from center_node import running_center
from edge_node import ENGINE, EdgeNode, EdgeProcess, question, running_edge, until
from line import Line

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.runtime.addresses import host_and_port
from deltaic.v1 import inference_pb2
from edge.index.embedded_valkey import EmbeddedValkey

pytestmark = pytest.mark.model
EDGE, CENTER = inference_pb2.NODE_ROLE_EDGE, inference_pb2.NODE_ROLE_CENTER
UNLABELLED = inference_pb2.SENSITIVITY_UNSPECIFIED


@asynccontextmanager
async def an_index(folder: Path) -> AsyncIterator[str]:
    """A real server, of no edge."""
    folder.mkdir()
    valkey = EmbeddedValkey(folder)
    async with valkey.running():
        yield valkey.url


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_an_edge_passes_a_request_to_the_neighbour_that_has_the_model_and_says_who_answered(
    tmp_path: Path, demo_model_path: Path
) -> None:
    async with an_index(tmp_path / "index") as url, running_center(tmp_path / "center", engine=ENGINE) as center:
        revision = (await center.publish_file(demo_model_path, "coder")).name
        await center.move(revision)
        await center.tag(revision, "v1")
        address = center.center.address
        settings = {"index_url": url, "no_escalation": ["ward"]}
        async with (
            running_edge(tmp_path / "a", address, name="edge@a", **settings) as a,
            running_edge(tmp_path / "b", address, "coder/stable", name="edge@b", **settings) as b,
        ):
            await until(b.serving)

            async def answered_by_b() -> bool:
                _, done = await a.ask("coder", tenant="clinic")
                return bool(done.node == "edge@b")

            await until(answered_by_b)
            for model in ("coder", "coder@stable", revision, "coder@v1", "models/coder/tags/v1"):
                text, done = await a.ask(model, sensitivity=UNLABELLED, tenant="ward")
                assert text
                assert (done.node, done.answered_by, done.revision) == ("edge@b", EDGE, revision), model
            await _of_the_tenant_that_stays(a)


async def _of_the_tenant_that_stays(a: EdgeNode) -> None:
    refused = await a.refusal("stranger", tenant="ward")
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "ESCALATION_FORBIDDEN")
    assert (await a.refusal("stranger", tenant="clinic")).code is Code.NOT_FOUND, "the center was asked"


@pytest.mark.parametrize("shared", [True, False])
async def test_a_neighbour_that_is_killed_in_mid_answer_is_a_typed_error_and_the_next_request_is_answered(
    tmp_path: Path, demo_model_path: Path, *, shared: bool
) -> None:
    """With an index that the branch shares, and without one: then by --peers."""
    async with an_index(tmp_path / "index") as url, running_center(tmp_path / "center", engine=ENGINE) as center:
        revision = (await center.publish_file(demo_model_path, "coder")).name
        await center.move(revision)
        address, port = center.center.address, free_port()
        flags = ("--channels", "coder/stable", "--name", "edge@b")
        process = EdgeProcess(tmp_path / "b", port, address, *flags, *(("--index-url", url) if shared else ()))
        await process.start()
        try:
            settings = {"index_url": url} if shared else {"peers": [f"127.0.0.1:{port}"]}
            async with running_edge(tmp_path / "a", address, name="edge@a", **settings) as a:

                async def answered_by_b() -> bool:
                    _, done = await a.ask("coder")
                    return bool(done.node == "edge@b")

                await until(answered_by_b)
                endless = question("coder", max_tokens=480, sampling=inference_pb2.Sampling(temperature=1.5, seed=7))
                call = a.inference.Generate(endless, timeout=60)
                assert (await call.read()).text
                await process.kill()
                lost = await _ended_with(call)
                assert (lost.code, lost.reason) == (Code.UNAVAILABLE, "NEIGHBOUR_LOST")
                assert int(lost.metadata["retry_after_ms"]) > 0
                _, done = await a.ask("coder")
                assert (done.answered_by, done.revision) == (CENTER, revision)
        finally:
            await process.kill()


async def _ended_with(call: object) -> DeltaicError:
    try:
        async for _ in call:  # type: ignore[attr-defined]
            pass
    except grpc.RpcError as error:
        return from_rpc_error(error, "edge")
    raise AssertionError("the answer was complete")


async def test_three_edges_pull_versions_over_the_line_once_and_the_delta_too(
    tmp_path: Path, demo_model_path: Path
) -> None:
    tuned = demo_model_path.with_name("smollm2-branch-assistant.Q4_1.gguf")
    async with an_index(tmp_path / "index") as url, running_center(tmp_path / "center", engine=ENGINE) as center:
        manifests = [await center.upload(path) for path in (demo_model_path, tuned)]
        first, second = [(await center.publish(each.digest, "assistant")).name for each in manifests]
        _, port = host_and_port(center.center.address)
        async with Line(port) as line:
            through = f"127.0.0.1:{line.port}"
            async with (
                running_edge(tmp_path / "a", through, "assistant/stable", name="edge@a", index_url=url) as a,
                running_edge(tmp_path / "b", through, "assistant/stable", name="edge@b", index_url=url) as b,
                running_edge(tmp_path / "c", through, "assistant/stable", name="edge@c", index_url=url) as c,
            ):
                edges = (a, b, c)
                await center.move(first)
                await asyncio.gather(*(until(lambda edge=edge: edge.serves(first)) for edge in edges))
                size = manifests[0].size
                assert size * 0.5 < line.down_bytes < 1.15 * size
                before = line.down_bytes
                await center.move(second)
                await asyncio.gather(*(until(lambda edge=edge: edge.serves(second), 120) for edge in edges))
                delta = (await a.own_state()).progress.wire_bytes
                assert line.down_bytes - before < 1.15 * delta
                new = manifests[1].unique.keys() - manifests[0].unique.keys()
                for edge in edges:
                    progress = (await edge.own_state()).progress
                    assert progress.delta_bytes == sum(digest.size for digest in new)
                    assert progress.wire_bytes < 0.2 * size
                assert [edge.edge.deltas.maker.encodings for edge in edges] == [0, 0, 0]


async def test_an_edge_takes_over_from_one_that_dies_while_it_fetches_for_the_branch(
    tmp_path: Path, demo_model_path: Path
) -> None:
    async with an_index(tmp_path / "index") as url, running_center(tmp_path / "center", engine=ENGINE) as center:
        revision = (await center.publish_file(demo_model_path, "assistant")).name
        await center.move(revision)
        _, port = host_and_port(center.center.address)
        async with Line(port, bytes_per_second=4_000_000) as slow:
            flags = ("--channels", "assistant/stable", "--name", "edge@leader", "--index-url", url)
            leader = EdgeProcess(tmp_path / "leader", free_port(), f"127.0.0.1:{slow.port}", *flags)
            await leader.start()
            try:

                async def fetching() -> bool:
                    return slow.down_bytes > 1_000_000

                await until(fetching)
                settings = {"name": "edge@b", "index_url": url}
                async with running_edge(tmp_path / "b", center.center.address, "assistant/stable", **settings) as b:
                    await leader.kill()
                    await until(lambda: b.serves(revision))
            finally:
                await leader.kill()
