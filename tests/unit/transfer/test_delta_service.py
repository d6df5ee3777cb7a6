"""Plans of a node that serves deltas: what there is, what can be made meanwhile, and what to start from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deltaic.store.delta_records import Pair
from deltaic.transfer.deltas.making import FileOf
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.planning import Limits
from deltaic.weights.manifest import Manifest

PATIENT = Limits(wait_seconds=60)


@pytest.fixture(scope="session")
def manifests(fine_tunes: list[Path]) -> list[Manifest]:
    return [Manifest.build(path) for path in fine_tunes]


@pytest.fixture
def file_of(fine_tunes: list[Path], manifests: list[Manifest]) -> FileOf:
    paths = {manifest.digest: path for manifest, path in zip(manifests, fine_tunes, strict=True)}

    @asynccontextmanager
    async def lease(manifest: Manifest) -> AsyncIterator[Path]:
        yield paths[manifest.digest]

    return lease


async def test_where_one_start_is_known_not_to_pay_the_next_is_tried(
    tmp_path: Path, file_of: FileOf, manifests: list[Manifest]
) -> None:
    zero, one, two = manifests[:3]
    async with DeltaService(tmp_path, 1 << 30, file_of, jobs=1).running() as service:
        service.shelf.refuse(Pair(zero.digest, two.digest))
        plan = await service.plan(two, [zero, one], PATIENT)
    [step] = plan.deltas
    assert (step.source, step.target) == (one.digest, two.digest)
    assert service.maker.encodings == 1


async def test_a_plan_keeps_its_deltas_on_the_shelf_until_they_are_fetched(
    tmp_path: Path, file_of: FileOf, manifests: list[Manifest]
) -> None:
    zero, one, two, _ = manifests
    async with DeltaService(tmp_path / "sizes", 1 << 30, file_of, jobs=1).running() as service:
        size = (await service.plan(one, [zero], PATIENT)).fetch_bytes
    async with DeltaService(tmp_path / "small", int(1.5 * size), file_of, jobs=1).running() as service:
        assert (await service.plan(one, [zero], PATIENT)).deltas
        assert (await service.plan(two, [one], PATIENT)).deltas == (), "the first is still being fetched"
        assert service.shelf.find(Pair(zero.digest, one.digest)) is not None


async def test_who_holds_nothing_alike_is_answered_at_once(
    tmp_path: Path, file_of: FileOf, manifests: list[Manifest], tiny_gguf
) -> None:
    stranger = Manifest.build(tiny_gguf())
    async with DeltaService(tmp_path, 1 << 30, file_of, jobs=1).running() as service:
        assert (await service.plan(manifests[0], [], PATIENT)).deltas == ()
        assert (await service.plan(manifests[0], [stranger], PATIENT)).deltas == ()
        assert service.maker.encodings == 0


async def test_after_a_chain_was_planned_the_direct_delta_is_made_for_the_next(
    tmp_path: Path, file_of: FileOf, manifests: list[Manifest]
) -> None:
    zero, one, two = manifests[:3]
    async with DeltaService(tmp_path, 1 << 30, file_of, jobs=1).running() as service:
        await service.plan(one, [zero], PATIENT)
        await service.plan(two, [one], PATIENT)
        chain = await service.plan(two, [zero], PATIENT)
        assert [step.target for step in chain.deltas] == [one.digest, two.digest]
        assert await service.maker.make(zero, two, 60) is not None
        assert len((await service.plan(two, [zero], PATIENT)).deltas) == 1
        assert service.maker.encodings == 3
