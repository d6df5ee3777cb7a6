"""A real fine-tune of the demo model on its way from a center over an edge to a device, by deltas."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from center_node import CenterNode, running_center
from edge_node import ENGINE, EdgeProcess, running_edge, until
from line import Line
from test_device_fleet import running_device

from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.model_files import ModelFiles
from deltaic.v1 import fleet_pb2, inference_pb2, registry_pb2
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
T = 60.0


@shared
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        yield node


@shared
async def manifests(center: CenterNode, demo_model_path: Path) -> list[Manifest]:
    """Version 1, which the channel names, and a fine-tune of it."""
    tuned = demo_model_path.with_name("smollm2-branch-assistant.Q4_1.gguf")
    found = [await center.upload(path) for path in (demo_model_path, tuned)]
    for manifest in found:
        await center.publish(manifest.digest)
    await center.move(name_of(found[0]))
    return found


def name_of(manifest: Manifest) -> str:
    return f"models/m/revisions/{manifest.revision}"


async def states(client) -> dict[int, fleet_pb2.ModelState]:
    """What each role reports of its one channel."""
    nodes = (await client.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)).nodes
    return {node.role: node.models[0] for node in nodes if node.models}


async def test_the_center_gives_a_delta_to_the_edge_and_the_edge_gives_it_to_its_device(
    center: CenterNode, manifests: list[Manifest], tmp_path: Path
) -> None:
    one, two = manifests
    edge_role, device_role = inference_pb2.NODE_ROLE_EDGE, inference_pb2.NODE_ROLE_DEVICE

    async def both_serve(manifest: Manifest, client) -> bool:
        found = await states(client)
        return all(
            role in found and found[role].serving_revision == found[role].target_revision == name_of(manifest)
            for role in (edge_role, device_role)
        )

    async with running_edge(tmp_path / "edge", center.center.address, "m/stable") as edge:
        async with Line(edge.edge.port) as line, running_device(tmp_path / "device", line.port):
            await until(lambda: both_serve(one, edge), 120)
            before = line.down_bytes
            await center.move(name_of(two))
            await until(lambda: both_serve(two, edge), 120)
            found = await states(edge)
            moved = line.down_bytes - before
            encodings = edge.edge.deltas.maker.encodings
    for role in (edge_role, device_role):
        progress = found[role].progress
        assert progress.delta_bytes == sum(digest.size for digest in two.unique.keys() - one.unique.keys())
        assert progress.wire_bytes < 0.2 * two.size
        assert progress.fetched_bytes == two.digest.size, "of chunks, only the manifest"
        assert progress.reused_bytes + progress.delta_bytes == two.size
    assert moved < 0.2 * two.size, "on the wire, whatever nodes say"
    assert encodings == 0, "the edge passed on the delta that it came by"


async def test_a_kill_in_the_middle_of_a_delta_costs_no_verified_chunk(
    center: CenterNode,
    manifests: list[Manifest],
    tmp_path: Path,
    unused_tcp_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = manifests
    await center.move(name_of(one))
    index = await delta_of(center, one, two)
    new = {two.unique[digest][0]: digest.size for digest in two.unique.keys() - one.unique.keys()}
    packless = sum(new.get(part.target_offset, 0) for part in index.parts if part.pack < 0)
    port = int(center.center.address.rpartition(":")[2])
    flags = ("--channels", "m/stable", "--name", "edge@killed")
    async with Line(port) as line:
        process = EdgeProcess(tmp_path / "edge", unused_tcp_port, f"127.0.0.1:{line.port}", *flags)
        try:
            await process.start()
            async with process.client() as client:
                await until(partial(serves, client, one), 120)
                line.bytes_per_second = index.size / 10
                await center.move(name_of(two))
                await until(partial(makes, client, packless), 120)
            await process.kill()
            line.cut()
            missing = await asyncio.to_thread(missing_of, tmp_path / "edge" / "models", two)
            made = two.unique.keys() - one.unique.keys() - missing
            assert made, "something was made before the kill"
            assert missing, "and not everything"

            line.bytes_per_second = 0.0
            read = recorded_reads(monkeypatch)
            await process.start()
            async with process.client() as client:
                await until(partial(serves, client, two), 120)
                progress = (await client.own_state()).progress
        finally:
            await process.kill()
    offsets = {offset for digest in missing for offset in two.unique[digest][:1]}
    needed = {index.packs[part.pack] for part in index.parts if part.target_offset in offsets and part.pack >= 0}
    assert not two.unique.keys() & set(read), "no chunk is fetched, neither a verified one nor another"
    assert {digest for digest in read if digest in index.packs} == needed
    assert len(read) == len(needed) + 2, "each once, and manifest and index"
    assert progress.reused_bytes + progress.delta_bytes + progress.fetched_bytes == two.size + two.digest.size
    assert progress.delta_bytes == sum(digest.size for digest in missing)


async def delta_of(center: CenterNode, one: Manifest, two: Manifest) -> DeltaIndex:
    """The delta that the center has, made if there is none."""
    limits = registry_pb2.NodeLimits(wait_seconds=T)
    request = registry_pb2.PlanUpdateRequest(want=name_of(two), have=[name_of(one)], limits=limits)
    plan = await center.registry.PlanUpdate(request, timeout=2 * T)
    digest = Digest.from_proto(plan.steps[-1].delta)
    return DeltaIndex.parse(await center.center.deltas.shelf.read(digest))


async def serves(client, manifest: Manifest) -> bool:
    return await client.serving() and await client.serves(name_of(manifest))


async def makes(client, more_than: int) -> bool:
    return (await client.own_state()).progress.delta_bytes > more_than


def missing_of(folder: Path, manifest: Manifest) -> set[Digest]:
    with ModelFiles(folder).stage(manifest) as staging:
        return {chunk.digest for chunk in staging.missing}


def recorded_reads(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """Every blob that the center reads from here on, to send it."""
    digests: list[Digest] = []
    read = ObjectChunkStore.read

    async def recorded(store: ObjectChunkStore, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        digests.append(digest)
        return await read(store, digest, offset, limit)

    monkeypatch.setattr(ObjectChunkStore, "read", recorded)
    return digests
