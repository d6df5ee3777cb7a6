"""Updates by delta between real nodes: few bytes, once for all who ask, and chunks whenever a delta is no good."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
import structlog
from center_node import CenterNode, flip_byte, refusal, running_center
from delta_models import accounts_for, following, until

from deltaic.rpc.channel import open_channel
from deltaic.store.delta_records import Pair
from deltaic.transfer.planning import Limits
from deltaic.v1 import content_pb2, registry_pb2, registry_pb2_grpc
from deltaic.weights.manifest import Manifest

TinyGguf = Callable[..., Path]
T = 60.0
Versions = list[tuple[Path, Manifest]]


@pytest.fixture(scope="session")
def versions(fine_tunes: list[Path]) -> Versions:
    return [(path, Manifest.build(path)) for path in fine_tunes]


async def publish(center: CenterNode, version: tuple[Path, Manifest], model: str = "m") -> str:
    return (await center.publish_file(version[0], model)).name


def plan_request(want: str, *have: str, wait: float = T, **limits: float) -> registry_pb2.PlanUpdateRequest:
    return registry_pb2.PlanUpdateRequest(
        want=want, have=have, limits=registry_pb2.NodeLimits(wait_seconds=wait, **limits)
    )


def methods(plan: registry_pb2.PlanUpdateResponse) -> list[str]:
    return [registry_pb2.UpdateStep.Method.Name(step.method).removeprefix("METHOD_") for step in plan.steps]


def encoders() -> list[psutil.Process]:
    """Processes below this one that make deltas."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any("deltas.encoder" in word for word in words_of(child))]


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def shelf_of(center: CenterNode):
    return center.center.deltas.shelf


async def test_a_fine_tune_arrives_by_delta_in_a_few_percent_of_its_bytes(tmp_path: Path, versions: Versions) -> None:
    (_, one), (path, two) = versions[:2]
    async with running_center(tmp_path / "center") as center:
        first, second = await publish(center, versions[0]), await publish(center, versions[1])
        await center.move(first)
        async with following(tmp_path / "node", center.center.address) as node:
            await node.serves(one)
            await center.move(second)
            await node.serves(two)
            progress = node.progress
            assert node.content(two) == path.read_bytes()
    assert progress.wire_bytes < 0.05 * two.size
    assert progress.delta_bytes > 0.9 * two.size
    assert accounts_for(progress, two)
    done = [
        each.progress.reused_bytes + each.progress.delta_bytes + each.progress.fetched_bytes
        for each in node.states
        if each.target_revision == second
    ]
    assert done == sorted(done), "progress never runs backwards"


async def test_a_moved_channel_has_deltas_from_what_it_named_before_without_being_asked(
    tmp_path: Path, versions: Versions
) -> None:
    async with running_center(tmp_path / "center", delta_history=2) as center:
        names = [await publish(center, version) for version in versions]
        for name in names:
            await center.move(name)
        shelf, last = shelf_of(center), versions[3][1]
        await until(lambda: all(shelf.find(Pair(versions[n][1].digest, last.digest)) for n in (1, 2)))
        assert shelf.find(Pair(versions[0][1].digest, last.digest)) is None, "that was three revisions ago"


async def test_fifty_nodes_that_ask_together_make_one_delta(tmp_path: Path, versions: Versions) -> None:
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        request = plan_request(names[1], names[0])
        plans = await asyncio.gather(*(center.registry.PlanUpdate(request, timeout=T) for _ in range(50)))
        assert center.center.deltas.maker.encodings == 1
    assert {tuple(methods(plan)) for plan in plans} == {("REUSE_CHUNKS", "DELTA")}
    assert len({plan.steps[-1].delta.sha256 for plan in plans}) == 1
    step = plans[0].steps[-1]
    assert (step.from_revision, step.to_revision) == (names[0], names[1])
    assert 0 < step.fetch_bytes < 0.05 * versions[1][1].size
    assert step.memory_bytes > 0
    assert step.seconds > 0


async def test_a_node_that_does_not_wait_is_answered_with_chunks_and_finds_the_delta_later(
    tmp_path: Path, versions: Versions
) -> None:
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        request = plan_request(names[1], names[0], wait=0)
        plan = await center.registry.PlanUpdate(request, timeout=T)
        assert methods(plan) == ["REUSE_CHUNKS", "CHUNKS"]
        assert plan.steps[-1].fetch_bytes == plan.fetch_bytes
        await until(lambda: len(shelf_of(center).deltas()) == 1)
        plan = await center.registry.PlanUpdate(request, timeout=T)
        assert methods(plan) == ["REUSE_CHUNKS", "DELTA"]


async def test_a_node_of_before_gets_what_it_got_and_no_delta_is_made_for_it(
    tmp_path: Path, versions: Versions
) -> None:
    (_, one), (_, two) = versions[:2]
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        plan = await center.registry.PlanUpdate(
            registry_pb2.PlanUpdateRequest(want=names[1], have=[names[0]]), timeout=T
        )
        missing = two.unique.keys() - one.unique.keys()
        assert plan.fetch_bytes == sum(digest.size for digest in missing)
        assert plan.fetch_chunks == len(missing)
        assert list(plan.reuse_from) == [names[0]]
        assert methods(plan) == ["REUSE_CHUNKS", "CHUNKS"]
        assert center.center.deltas.maker.encodings == 0


async def test_a_revision_of_another_model_serves_as_a_start(tmp_path: Path, versions: Versions) -> None:
    async with running_center(tmp_path / "center") as center:
        other = await publish(center, versions[0], "other")
        wanted = await publish(center, versions[1])
        # Nodes know their files by digest only, and name them by the model that they want.
        guessed = other.replace("models/other/", "models/m/")
        plan = await center.registry.PlanUpdate(plan_request(wanted, guessed), timeout=T)
    assert methods(plan) == ["REUSE_CHUNKS", "DELTA"]
    assert plan.steps[-1].from_revision == guessed


async def test_limits_are_kept(tmp_path: Path, versions: Versions) -> None:
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        plan = await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
        step = plan.steps[-1]
        small = plan_request(names[1], names[0], memory_bytes=step.memory_bytes - 1)
        assert "DELTA" not in methods(await center.registry.PlanUpdate(small, timeout=T))
        quick = plan_request(names[1], names[0], link_bytes_per_second=10**10, apply_bytes_per_second=10**6)
        assert "DELTA" not in methods(await center.registry.PlanUpdate(quick, timeout=T))
        slow = plan_request(names[1], names[0], link_bytes_per_second=10**6, apply_bytes_per_second=10**8)
        assert "DELTA" in methods(await center.registry.PlanUpdate(slow, timeout=T))
        for nonsense in (-1.0, float("nan"), float("inf")):
            error = await refusal(
                center.registry.PlanUpdate(plan_request(names[1], names[0], wait=nonsense), timeout=T)
            )
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "BAD_LIMITS")


async def test_a_damaged_pack_costs_its_chunks_and_the_update_ends_verified(tmp_path: Path, versions: Versions) -> None:
    (_, one), (path, two) = versions[:2]
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        await center.move(names[0])
        async with following(tmp_path / "node", center.center.address) as node:
            await node.serves(one)
            await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
            [record] = shelf_of(center).deltas()
            flip_byte(shelf_of(center).folder / "chunks" / record.packs[0].hex[:2] / record.packs[0].hex)
            await center.move(names[1])
            with structlog.testing.capture_logs() as logs:
                await node.serves(two)
            assert node.content(two) == path.read_bytes()
            assert accounts_for(node.progress, two)
            assert node.progress.fetched_bytes > two.digest.size, "some chunks came whole"
        assert shelf_of(center).deltas() == [], "it is not offered again"
        again = await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
        assert methods(again) == ["REUSE_CHUNKS", "DELTA"], "but made again"
        assert await shelf_of(center).read(record.packs[0])
    assert "delta.left" in [log["event"] for log in logs]


async def test_a_delta_of_other_bytes_than_it_says_falls_back_to_chunks(
    tmp_path: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst a codec or a liar can do: every part makes something of the right length."""
    (_, one), (path, two) = versions[:2]
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        await center.move(names[0])
        async with following(tmp_path / "node", center.center.address) as node:
            await node.serves(one)
            monkeypatch.setattr(
                "deltaic.transfer.deltas.fetching.make_chunk",
                lambda index, part, read, payload: bytes(part.target_length),
            )
            await center.move(names[1])
            await node.serves(two)
            assert node.content(two) == path.read_bytes()
            assert node.progress.delta_bytes == 0
            assert accounts_for(node.progress, two)


async def test_a_chain_is_walked_over_a_revision_that_is_not_kept(tmp_path: Path, versions: Versions) -> None:
    (_, one), (_, two), (path, three) = versions[:3]
    async with running_center(tmp_path / "center", delta_history=1) as center:
        names = [await publish(center, version) for version in versions[:3]]
        await center.move(names[0])
        async with following(tmp_path / "node", center.center.address, Limits(wait_seconds=0)) as node:
            await node.serves(one)
        shelf = shelf_of(center)
        await center.move(names[1])
        await until(lambda: shelf.find(Pair(one.digest, two.digest)) is not None)
        await center.move(names[2])
        await until(lambda: shelf.find(Pair(two.digest, three.digest)) is not None)
        assert shelf.find(Pair(one.digest, three.digest)) is None
        async with following(tmp_path / "node", center.center.address, Limits(wait_seconds=0)) as node:
            await node.serves(three)
            assert node.content(three) == path.read_bytes()
            assert accounts_for(node.progress, three)
            assert node.progress.delta_bytes > 0.9 * three.size
            assert node.progress.wire_bytes < 0.1 * three.size
            assert node.files.path(two.digest.hex) is None
            assert not list((tmp_path / "node" / "models" / "steps").glob("*.gguf"))


async def test_blobs_of_deltas_are_read_by_digest_but_never_spare_a_publisher_a_chunk(
    tmp_path: Path, versions: Versions
) -> None:
    """A pack may be the very bytes of a chunk, and it may go at any time."""
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
        [record] = shelf_of(center).deltas()
        blobs = [digest.to_proto() for digest in record.blobs]
        answer = await center.content.FindMissing(content_pb2.FindMissingRequest(digests=blobs), timeout=T)
        assert list(answer.missing) == blobs
        ranges = [content_pb2.ReadRange(digest=each) for each in blobs]
        read = [frame async for frame in center.content.Read(content_pb2.ReadRequest(ranges=ranges), timeout=T)]
        assert sum(len(frame.data) for frame in read) == record.size


async def test_what_does_not_pay_is_tried_once(tmp_path: Path, tiny_gguf: TinyGguf) -> None:
    async with running_center(tmp_path / "center") as center:
        old = await center.publish_file(tiny_gguf(ballast=6 << 20))
        new = await center.publish_file(tiny_gguf(ballast=6 << 20, changed=["ballast.weight"]))
        for _ in range(3):
            plan = await center.registry.PlanUpdate(plan_request(new.name, old.name), timeout=T)
            assert methods(plan) == ["REUSE_CHUNKS", "CHUNKS"]
        assert center.center.deltas.maker.encodings == 1


async def test_a_center_without_room_for_deltas_makes_none(tmp_path: Path, versions: Versions) -> None:
    async with running_center(tmp_path / "center", deltas_bytes=0) as center:
        names = [await publish(center, version) for version in versions[:2]]
        for name in names:
            await center.move(name)
        plan = await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
        assert methods(plan) == ["REUSE_CHUNKS", "CHUNKS"]
        assert center.center.deltas.maker.encodings == 0


async def test_deltas_are_here_again_after_a_restart(tmp_path: Path, versions: Versions) -> None:
    async with running_center(tmp_path / "center") as center:
        names = [await publish(center, version) for version in versions[:2]]
        before = await center.registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T)
    async with running_center(tmp_path / "center") as center:
        after = await center.registry.PlanUpdate(plan_request(names[1], names[0], wait=0), timeout=T)
        assert center.center.deltas.maker.encodings == 0
    assert after == before


async def test_stopping_the_center_answers_who_waits_and_kills_the_encoder(tmp_path: Path, versions: Versions) -> None:
    async with AsyncExitStack() as outlives:
        async with running_center(tmp_path / "center", grace=60.0) as center:
            names = [await publish(center, version) for version in versions[:2]]
            channel = await outlives.enter_async_context(open_channel(center.center.address, node="edge@test"))
            registry = registry_pb2_grpc.RegistryServiceStub(channel)
            asking = asyncio.ensure_future(registry.PlanUpdate(plan_request(names[1], names[0]), timeout=T))
            await until(lambda: center.center.deltas.maker.encodings == 1 and encoders() != [])
        assert methods(await asking) == ["REUSE_CHUNKS", "CHUNKS"]
    assert encoders() == []
    assert list((tmp_path / "center" / "deltas" / "making").iterdir()) == []
