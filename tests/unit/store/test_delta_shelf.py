"""The shelf of deltas: inside its budget, whole after any crash, and never without what somebody is fetching."""

from pathlib import Path

import pytest

from deltaic.store.chunk_store import key_of
from deltaic.store.delta_records import DeltaRecord, Pair, record_path
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.store.errors import ChunkDamaged, ChunkNotFound, NoRoomForDelta
from deltaic.weights.digest import Digest

PACK = 1_000


def pair_of(number: int) -> Pair:
    return Pair(Digest.of(b"base"), Digest.of(b"version %d" % number))


def blobs_of(number: int, packs: int = 3) -> dict[Digest, bytes]:
    data = [bytes([number, pack]) * (PACK // 2) for pack in range(packs)] + [b"index %d" % number]
    return {Digest.of(each): each for each in data}


def record_of(number: int, packs: int = 3) -> DeltaRecord:
    *kept, index = blobs_of(number, packs)
    return DeltaRecord(pair_of(number), index, tuple(kept), 50_000, 7)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def add(shelf: DeltaShelf, number: int, packs: int = 3) -> DeltaRecord:
    made = shelf.making / str(number)
    made.mkdir(exist_ok=True)
    for digest, data in blobs_of(number, packs).items():
        (made / digest.hex).write_bytes(data)
    record = record_of(number, packs)
    await shelf.add(record, made)
    return record


async def holds(shelf: DeltaShelf, number: int) -> bool:
    return all([await shelf.has(digest) for digest in blobs_of(number)])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


async def test_a_delta_is_found_by_its_pair_and_read_by_digest(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    record = await add(shelf, 1)
    assert shelf.find(pair_of(1)) == record
    assert shelf.find(Pair(pair_of(1).target, pair_of(1).source)) is None, "the way back is another delta"
    for digest, data in blobs_of(1).items():
        assert await shelf.read(digest) == data


async def test_everything_is_here_again_when_it_is_opened_again(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    records = [await add(shelf, number) for number in (1, 2)]
    again = DeltaShelf(tmp_path, 1 << 20)
    assert sorted(again.deltas(), key=str) == sorted(records, key=str)
    assert again.size == shelf.size
    assert await holds(again, 1)


async def test_the_one_used_longest_ago_makes_room(tmp_path: Path) -> None:
    clock = Clock()
    shelf = DeltaShelf(tmp_path, 10_000, clock=clock)
    for number in (1, 2, 3):
        await add(shelf, number)
    shelf.use(pair_of(1))
    clock.now += 1_000
    await add(shelf, 4)
    assert [record.pair for record in shelf.deltas()] == [pair_of(3), pair_of(1), pair_of(4)]
    assert shelf.size <= 10_000
    assert not await holds(shelf, 2)
    assert not files(tmp_path) & {digest.hex for digest in blobs_of(2)}


async def test_the_order_survives_a_restart(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    for number in (1, 2, 3):
        await add(shelf, number)
    await shelf.read(record_of(1).index)
    assert [record.pair for record in DeltaShelf(tmp_path, 1 << 20).deltas()][-1] == pair_of(1)


async def test_what_is_being_fetched_does_not_make_room(tmp_path: Path) -> None:
    clock = Clock()
    shelf = DeltaShelf(tmp_path, 7_000, grace=60, clock=clock)
    await add(shelf, 1)
    await add(shelf, 2)
    await shelf.read(record_of(1).packs[0])
    await add(shelf, 3)
    assert await holds(shelf, 1)
    assert not await holds(shelf, 2)
    with shelf.leased(pair_of(3)), pytest.raises(NoRoomForDelta, match="7,000 bytes"):
        await add(shelf, 4)
    assert await holds(shelf, 1)
    assert await holds(shelf, 3)
    clock.now += 61
    await add(shelf, 5)
    assert not await holds(shelf, 1)


async def test_a_smaller_budget_takes_effect_at_the_next_opening(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    for number in (1, 2, 3):
        await add(shelf, number)
    assert [record.pair for record in DeltaShelf(tmp_path, 4_000).deltas()] == [pair_of(3)]
    assert DeltaShelf(tmp_path, 0).size == 0


async def test_packs_that_two_deltas_share_stay_while_one_of_them_does(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 7_000)
    first = await add(shelf, 1)
    twin = DeltaRecord(pair_of(9), first.index, first.packs, 50_000, 7)
    made = shelf.making / "twin"
    made.mkdir()
    for digest, data in blobs_of(1).items():
        (made / digest.hex).write_bytes(data)
    await shelf.add(twin, made)
    assert shelf.size == first.size, "bytes rest once"
    await add(shelf, 2)
    shelf.use(twin.pair)
    await add(shelf, 3)
    assert shelf.find(first.pair) is None
    assert shelf.find(pair_of(2)) is None
    assert shelf.find(twin.pair) == twin
    assert await holds(shelf, 1)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
async def test_a_crash_while_adding_leaves_nothing_or_all(tmp_path: Path, kept: int) -> None:
    """The order is packs, index, record; a crash leaves the first of them."""
    shelf = DeltaShelf(tmp_path, 1 << 20)
    await add(shelf, 1)
    blobs = list(blobs_of(2).items())
    for digest, data in blobs[:kept]:
        place = tmp_path / key_of(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (shelf.making / "half").mkdir()
    (shelf.making / "half" / "pack").write_bytes(b"half")
    again = DeltaShelf(tmp_path, 1 << 20)
    assert [record.pair for record in again.deltas()] == [pair_of(1)]
    assert files(tmp_path) == {*(digest.hex for digest in blobs_of(1)), record_path(tmp_path, pair_of(1)).name}


async def test_a_crash_while_removing_leaves_no_record_of_what_is_gone(tmp_path: Path) -> None:
    await add(DeltaShelf(tmp_path, 1 << 20), 1)
    record_path(tmp_path, pair_of(1)).unlink()
    again = DeltaShelf(tmp_path, 1 << 20)
    assert (again.deltas(), again.size, files(tmp_path)) == ([], 0, set())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff", b"null"])
async def test_a_record_that_does_not_read_is_as_good_as_absent(tmp_path: Path, content: bytes) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    await add(shelf, 1)
    await add(shelf, 2)
    record_path(tmp_path, pair_of(1)).write_bytes(content)
    again = DeltaShelf(tmp_path, 1 << 20)
    assert [record.pair for record in again.deltas()] == [pair_of(2)]
    assert not await holds(again, 1)


async def test_a_delta_that_lacks_a_pack_is_not_offered(tmp_path: Path) -> None:
    await add(DeltaShelf(tmp_path, 1 << 20), 1)
    (tmp_path / key_of(record_of(1).packs[1])).unlink()
    assert DeltaShelf(tmp_path, 1 << 20).deltas() == []


async def test_a_damaged_delta_is_not_offered_until_it_is_made_again(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    record = await add(shelf, 1)
    (tmp_path / key_of(record.packs[0])).write_bytes(b"x" * record.packs[0].size)
    with pytest.raises(ChunkDamaged):
        await shelf.read(record.packs[0])
    assert shelf.find(record.pair) is None
    assert shelf.deltas() == []
    assert DeltaShelf(tmp_path / "other", 1).deltas() == []
    await add(shelf, 1)
    assert shelf.find(record.pair) == record
    assert await shelf.read(record.packs[0]) == blobs_of(1)[record.packs[0]]


async def test_a_damaged_delta_is_the_first_to_make_room(tmp_path: Path) -> None:
    clock = Clock()
    shelf = DeltaShelf(tmp_path, 7_000, clock=clock)
    await add(shelf, 1)
    record = await add(shelf, 2)
    (tmp_path / key_of(record.packs[0])).unlink()
    with pytest.raises(ChunkNotFound):
        await shelf.read(record.packs[0])
    clock.now += 1_000
    await add(shelf, 3)
    assert [each.pair for each in shelf.deltas()] == [pair_of(1), pair_of(3)]


async def test_what_replaces_a_delta_of_the_same_pair_leaves_nothing_of_it(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 1 << 20)
    await add(shelf, 1)
    other = record_of(2)
    made = shelf.making / "other"
    made.mkdir()
    for digest, data in blobs_of(2).items():
        (made / digest.hex).write_bytes(data)
    await shelf.add(DeltaRecord(pair_of(1), other.index, other.packs, 1, 1), made)
    assert not files(tmp_path) & {digest.hex for digest in blobs_of(1)}
    assert shelf.size == other.size


async def test_a_delta_larger_than_the_budget_is_refused_and_costs_nobody_else(tmp_path: Path) -> None:
    shelf = DeltaShelf(tmp_path, 4_000)
    await add(shelf, 1)
    with pytest.raises(NoRoomForDelta):
        await add(shelf, 2, packs=5)
    assert await holds(shelf, 1)
    assert not files(tmp_path / "chunks") & {digest.hex for digest in blobs_of(2)}
