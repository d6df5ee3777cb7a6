"""Making deltas: once for all who ask, who waits first, what fails or does not pay not again, nothing left behind."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from deltaic.store.delta_records import Pair
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.transfer.deltas import making
from deltaic.transfer.deltas.encoder_process import Encoding, run_encoder
from deltaic.transfer.deltas.making import DeltaMaker
from deltaic.transfer.errors import DeltaFailed, DeltaTooLarge
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.manifest import Manifest

WAIT = 60.0


@pytest.fixture(scope="session")
def manifests(fine_tunes: list[Path]) -> list[Manifest]:
    return [Manifest.build(path) for path in fine_tunes]


class Orders:
    """What encoders are asked to make; each goes on when it is let go, and fails with what it is told."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths
        self.seen: list[tuple[str, str]] = []
        self.ended: asyncio.Event = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, order: Encoding) -> str:
        self.seen.append((order.source.parent.name, order.target.parent.name))
        await self.ended.wait()
        if self.error:
            raise self.error
        return await run_encoder(order)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Orders:
    found = Orders({})
    monkeypatch.setattr(making, "run_encoder", found.run)
    return found


@pytest.fixture
def maker(tmp_path: Path, fine_tunes: list[Path], manifests: list[Manifest]) -> DeltaMaker:
    paths = {manifest.digest: path for manifest, path in zip(manifests, fine_tunes, strict=True)}

    @asynccontextmanager
    async def file_of(manifest: Manifest) -> AsyncIterator[Path]:
        yield paths[manifest.digest]

    return DeltaMaker(DeltaShelf(tmp_path / "deltas", 1 << 30), file_of, jobs=1)


async def turns(count: int = 20) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


async def test_all_who_ask_together_get_the_one_delta_that_is_made(
    maker: DeltaMaker, manifests: list[Manifest], tmp_path: Path
) -> None:
    one, two = manifests[:2]
    async with maker.running():
        found = await asyncio.gather(*(maker.make(one, two, WAIT) for _ in range(50)))
    assert maker.encodings == 1
    assert len(set(found)) == 1
    record = found[0]
    assert record is not None
    shelf = DeltaShelf(tmp_path / "deltas", 1 << 30)
    index = DeltaIndex.parse(await shelf.read(record.index))
    assert (index.source, index.target) == (one.file_digest, two.file_digest)
    assert index.packs == record.packs
    assert all([await shelf.has(pack) for pack in index.packs])
    assert 0 < record.size < 0.1 * two.size


async def test_who_waits_goes_before_what_nobody_waits_for(
    maker: DeltaMaker, manifests: list[Manifest], orders: Orders
) -> None:
    zero, one, two, three = manifests
    async with maker.running():
        maker.want(zero, three)
        await turns()
        maker.want(one, three)
        waiting = asyncio.create_task(maker.make(two, three, WAIT))
        await turns()
        orders.ended.set()
        assert await waiting is not None
    assert orders.seen[:2] == [("0", "3"), ("2", "3")]


async def test_an_asker_that_gives_up_leaves_the_delta_in_the_making(
    maker: DeltaMaker, manifests: list[Manifest], orders: Orders
) -> None:
    one, two = manifests[:2]
    async with maker.running():
        assert await maker.make(one, two, 0.01) is None
        orders.ended.set()
        assert await maker.make(one, two, WAIT) is not None
    assert len(orders.seen) == 1


async def test_a_failure_is_remembered_for_a_while_and_harms_nobody(
    tmp_path: Path, maker: DeltaMaker, manifests: list[Manifest], orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = manifests[:3]
    orders.error = DeltaFailed("the disk is on fire")
    orders.ended.set()
    now = [0.0]
    monkeypatch.setattr(maker, "_clock", lambda: now[0])
    async with maker.running():
        assert await maker.make(one, two, WAIT) is None
        assert await maker.make(one, two, WAIT) is None
        assert len(orders.seen) == 1
        orders.error = RuntimeError("a mistake of ours")
        assert await maker.make(two, three, WAIT) is None, "whatever it is"
        orders.error = None
        now[0] += 601
        assert await maker.make(one, two, WAIT) is not None
    assert list(maker._shelf.making.iterdir()) == []


async def test_what_does_not_pay_is_not_tried_again(
    maker: DeltaMaker, manifests: list[Manifest], orders: Orders
) -> None:
    one, two = manifests[:2]
    orders.error = DeltaTooLarge("as large as the chunks")
    orders.ended.set()
    async with maker.running():
        for _ in range(3):
            assert await maker.make(one, two, WAIT) is None
    assert len(orders.seen) == 1


async def test_nothing_is_tried_between_models_that_are_not_alike(
    maker: DeltaMaker, manifests: list[Manifest], tiny_gguf, orders: Orders
) -> None:
    stranger = Manifest.build(tiny_gguf(ballast=1 << 20))
    async with maker.running():
        assert await maker.make(stranger, manifests[0], WAIT) is None
        assert await maker.make(manifests[0], stranger, WAIT) is None
        assert await maker.make(manifests[0], manifests[0], WAIT) is None
    assert orders.seen == []


async def test_the_queue_is_bounded_and_drops_what_nobody_waits_for(
    maker: DeltaMaker, manifests: list[Manifest], orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero, one, two, three = manifests
    monkeypatch.setattr(making, "_MOST_WAITING", 2)
    async with maker.running():
        maker.want(zero, one)
        await turns()
        maker.want(zero, two)
        maker.want(zero, three)
        waiting = asyncio.create_task(maker.make(one, two, WAIT))
        await turns()
        orders.ended.set()
        assert await waiting is not None
        assert await maker.make(zero, three, WAIT) is not None
    assert orders.seen == [("0", "1"), ("1", "2"), ("0", "3")]


async def test_stopping_answers_who_waits_and_takes_nothing_more(
    maker: DeltaMaker, manifests: list[Manifest], orders: Orders
) -> None:
    zero, one, two = manifests[:3]
    async with maker.running():
        waiting = [asyncio.create_task(maker.make(zero, one, WAIT)), asyncio.create_task(maker.make(one, two, WAIT))]
        await turns()
    assert await asyncio.gather(*waiting) == [None, None]
    assert await maker.make(zero, two, WAIT) is None
    assert list(maker._shelf.making.iterdir()) == []


async def test_a_file_that_is_not_what_its_manifest_says_makes_no_delta(
    tmp_path: Path, fine_tunes: list[Path], manifests: list[Manifest]
) -> None:
    @asynccontextmanager
    async def file_of(_manifest: Manifest) -> AsyncIterator[Path]:
        yield fine_tunes[2]

    maker = DeltaMaker(DeltaShelf(tmp_path / "deltas", 1 << 30), file_of, jobs=1)
    async with maker.running():
        assert await maker.make(manifests[0], manifests[1], WAIT) is None
    assert maker._shelf.find(Pair(manifests[0].digest, manifests[1].digest)) is None
    assert maker._shelf.size == 0


async def test_the_encoder_says_why_it_failed(tmp_path: Path, fine_tunes: list[Path]) -> None:
    absent = tmp_path / "absent.gguf"
    with pytest.raises(DeltaFailed, match=r"absent\.gguf"):
        await run_encoder(Encoding(absent, fine_tunes[0], tmp_path, 1, 1 << 30))


async def test_the_encoder_stops_when_the_delta_does_not_pay(tmp_path: Path, fine_tunes: list[Path]) -> None:
    with pytest.raises(DeltaTooLarge, match="1,000 bytes"):
        await run_encoder(Encoding(fine_tunes[0], fine_tunes[1], tmp_path, 1, 1_000))


async def test_a_cancelled_encoder_is_gone_with_its_children(tmp_path: Path, fine_tunes: list[Path]) -> None:
    me = psutil.Process()
    others = set(me.children())
    running = asyncio.create_task(run_encoder(Encoding(fine_tunes[0], fine_tunes[1], tmp_path, 2, 1 << 30)))
    async with asyncio.timeout(30):
        while not (family := [each for child in set(me.children()) - others for each in child.children()]):
            await asyncio.sleep(0.01)
    family += set(me.children()) - others
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(30):
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family):
            await asyncio.sleep(0.01)


async def test_an_encoder_whose_node_is_killed_goes_too(tmp_path: Path, fine_tunes: list[Path]) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from deltaic.transfer.deltas.encoder_process import Encoding, run_encoder\n"
        "source, target, folder = map(Path, sys.argv[1:])\n"
        "asyncio.run(run_encoder(Encoding(source, target, folder, 2, 1 << 30)))\n"
    )
    arguments = ("-c", program, str(fine_tunes[0]), str(fine_tunes[1]), str(tmp_path))
    node = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    async with asyncio.timeout(60):
        while len(family := psutil.Process(node.pid).children(recursive=True)) < 2:
            await asyncio.sleep(0.01)
        node.kill()
        await node.wait()
        while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family):
            await asyncio.sleep(0.01)
