"""Applying deltas that anybody may have made: chunks that are right, or chunks still to be fetched; nothing else."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from deltaic.errors import Unavailable
from deltaic.store.errors import ChunkNotFound, DiskFull
from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.deltas import fetching
from deltaic.transfer.deltas.fetching import DeltaFetch, DeltaOrder
from deltaic.transfer.deltas.walking import DeltaWalk, remove_steps
from deltaic.transfer.errors import LineLost
from deltaic.transfer.planning import Method, Step
from deltaic.transfer.source import Piece, WantedRange
from deltaic.weights.delta.encode import encode
from deltaic.weights.delta.index import Codec, DeltaIndex, serialise
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadDelta, WrongBase
from deltaic.weights.manifest import Manifest

QUICK = Retry(failures=2, first_delay=0.001, longest_delay=0.001)


@dataclass
class Blobs:
    """A source of what it is given, which remembers what it was asked for."""

    held: dict[Digest, bytes]
    name: str = "a test"
    read_digests: list[Digest] = field(default_factory=list)
    down: bool = False

    async def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        for index, wanted in enumerate(ranges):
            if self.down:
                raise Unavailable("the line is cut")
            if wanted.digest not in self.held:
                raise ChunkNotFound(f"no {wanted.digest}")
            self.read_digests.append(wanted.digest)
            data = self.held[wanted.digest][wanted.offset :]
            yield Piece(index, data, len(data), end=True)


@dataclass(frozen=True)
class Delta:
    """A delta and its two ends."""

    source: Path
    target: Path
    old: Manifest
    new: Manifest
    index: DeltaIndex
    blobs: dict[Digest, bytes]

    def step(self) -> Step:
        return Step(Method.DELTA, self.old.digest, self.new.digest, self.index.digest, self.index.size, 1 << 20)


def delta_between(source: Path, target: Path) -> Delta:
    blobs: dict[Digest, bytes] = {}
    index = encode(source, target, lambda digest, data: blobs.update({digest: data}), jobs=1)
    old, new = Manifest.build(source), Manifest.build(target)
    return Delta(source, target, old, new, index, {**blobs, index.digest: index.data, new.digest: new.data})


@pytest.fixture(scope="session")
def deltas(fine_tunes: list[Path]) -> list[Delta]:
    return [delta_between(fine_tunes[0], fine_tunes[1]), delta_between(fine_tunes[1], fine_tunes[2])]


@pytest.fixture
def files(tmp_path: Path, deltas: list[Delta]) -> ModelFiles:
    """A node that holds the first version."""
    files = ModelFiles(tmp_path / "models")
    content = deltas[0].source.read_bytes()
    with files.stage(deltas[0].old) as staging:
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        staging.commit()
    return files


async def forget(_digest: Digest, _data: bytes) -> None:
    """Keeps nothing."""


def fetch_of(staging: Staging, source: Blobs) -> DeltaFetch:
    return DeltaFetch(staging, [source], in_flight=2, retry=QUICK, on_progress=lambda: None, keep=forget)


def order_of(delta: Delta) -> DeltaOrder:
    return DeltaOrder(delta.index.digest, delta.source, delta.old.file_digest, makers=2)


def walk_of(files: ModelFiles, source: Blobs) -> DeltaWalk:
    return DeltaWalk(files, source, in_flight=2, memory_bytes=64 << 20, retry=QUICK, on_progress=lambda: None)


def rebuilt(delta: Delta, spoil: Callable[[bytes], bytes]) -> tuple[DeltaIndex, dict[Digest, bytes]]:
    """The same delta with spoilt packs, honestly named: what a hostile node would send."""
    packs = [spoil(delta.blobs[pack]) for pack in delta.index.packs]
    digests = [Digest.of(pack) for pack in packs]
    data = serialise(delta.index.source, delta.index.target, delta.index.segments, delta.index.parts, digests)
    index = DeltaIndex.parse(data)
    return index, {index.digest: data, **dict(zip(digests, packs, strict=True))}


async def test_every_chunk_that_is_not_held_is_made(files: ModelFiles, deltas: list[Delta]) -> None:
    delta = deltas[0]
    source = Blobs(delta.blobs)
    with files.stage(delta.new) as staging:
        fetch = fetch_of(staging, source)
        await fetch.reuse()
        await fetch.make(order_of(delta))
        path = staging.commit()
    assert path.read_bytes() == delta.target.read_bytes()
    assert fetch.made_bytes == sum(digest.size for digest in delta.new.unique.keys() - delta.old.unique.keys())
    assert fetch.wire_bytes == delta.index.size
    assert fetch.failed_parts == 0


async def test_only_packs_of_missing_chunks_are_fetched(files: ModelFiles, deltas: list[Delta]) -> None:
    delta = deltas[0]
    source = Blobs(delta.blobs)
    last = next(part for part in reversed(delta.index.parts) if part.pack >= 0)
    content = delta.target.read_bytes()
    with files.stage(delta.new) as staging:
        for chunk in staging.missing:
            if chunk.offset != last.target_offset:
                staging.write(chunk, content[chunk.offset : chunk.end])
        await fetch_of(staging, source).make(order_of(delta))
        assert staging.missing == []
    assert source.read_digests == [delta.index.digest, delta.index.packs[last.pack]]


async def test_a_delta_to_or_from_another_file_is_left(files: ModelFiles, deltas: list[Delta]) -> None:
    right, wrong = deltas
    source = Blobs({**right.blobs, **wrong.blobs})
    with files.stage(right.new) as staging:
        missing = staging.missing
        with pytest.raises(WrongBase, match="wanted is"):
            await fetch_of(staging, source).make(replace(order_of(right), index=wrong.index.digest))
        with pytest.raises(WrongBase, match="held is"):
            await fetch_of(staging, source).make(replace(order_of(right), source_digest=wrong.old.file_digest))
        assert staging.missing == missing
    assert set(source.read_digests) == {right.index.digest, wrong.index.digest}, "not one pack was fetched"


async def test_an_index_that_is_too_large_is_not_even_fetched(files: ModelFiles, deltas: list[Delta]) -> None:
    source = Blobs({})
    huge = Digest(bytes(32), 1 << 30)
    with files.stage(deltas[0].new) as staging:
        with pytest.raises(BadDelta, match="1,073,741,824 bytes"):
            await fetch_of(staging, source).make(replace(order_of(deltas[0]), index=huge))
    assert source.read_digests == []


async def test_a_delta_that_brings_as_much_as_chunks_is_left(files: ModelFiles, deltas: list[Delta]) -> None:
    delta = deltas[0]
    content = delta.target.read_bytes()
    parts, packs = [], []
    for part in delta.index.parts:
        packs.append(Digest.of(content[part.target_offset :][: part.target_length]))
        parts.append(
            replace(
                part,
                codec=Codec.RAW,
                source_length=0,
                pack=len(packs) - 1,
                payload_offset=0,
                payload_length=part.target_length,
            )
        )
    data = serialise(delta.index.source, delta.index.target, delta.index.segments, parts, packs)
    source = Blobs({Digest.of(data): data})
    with files.stage(delta.new) as staging:
        with pytest.raises(BadDelta, match="no less than"):
            await fetch_of(staging, source).make(replace(order_of(delta), index=Digest.of(data)))
    assert source.read_digests == [Digest.of(data)], "not one pack was fetched"


@pytest.mark.parametrize("seed", range(12))
async def test_spoilt_payloads_make_right_chunks_or_none(files: ModelFiles, deltas: list[Delta], seed: int) -> None:
    delta = deltas[0]
    random = np.random.default_rng(seed)

    def spoil(pack: bytes) -> bytes:
        content = np.frombuffer(pack, np.uint8).copy()
        places = random.integers(0, len(content), 1 << seed)
        content[places] = random.integers(0, 256, len(places))
        return content.tobytes()

    index, blobs = rebuilt(delta, spoil)
    with files.stage(delta.new) as staging:
        fetch = fetch_of(staging, Blobs(blobs))
        await fetch.make(replace(order_of(delta), index=index.digest))
        assert fetch.failed_parts == len(staging.missing) > 0
        content = delta.target.read_bytes()
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        assert staging.commit().read_bytes() == content


async def test_whatever_a_codec_does_costs_only_its_chunk(
    files: ModelFiles, deltas: list[Delta], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(fetching, "make_chunk", broken)
    with files.stage(deltas[0].new) as staging:
        before = staging.missing
        fetch = fetch_of(staging, Blobs(deltas[0].blobs))
        await fetch.make(order_of(deltas[0]))
        assert staging.missing == before
    assert fetch.made_bytes == 0


async def test_a_walk_leaves_a_delta_that_lacks_packs_and_keeps_what_it_made(
    files: ModelFiles, deltas: list[Delta]
) -> None:
    delta = deltas[0]
    lost = delta.index.packs[0]
    source = Blobs({digest: data for digest, data in delta.blobs.items() if digest != lost})
    with files.stage(delta.new) as staging:
        await walk_of(files, source).walk([delta.step()], staging)
        lacking = {part.target_offset for part in delta.index.parts if part.pack == 0}
        assert {chunk.offset for chunk in staging.missing} <= lacking
        assert staging.missing


async def test_a_walk_over_a_line_that_is_down_says_so(files: ModelFiles, deltas: list[Delta]) -> None:
    """Chunks could not be had either; when the line is back the delta is still the cheaper way."""
    with files.stage(deltas[0].new) as staging:
        with pytest.raises(LineLost):
            await walk_of(files, Blobs({}, down=True)).walk([deltas[0].step()], staging)


async def test_a_full_disk_is_said(files: ModelFiles, deltas: list[Delta], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no room")

    with files.stage(deltas[0].new) as staging:
        monkeypatch.setattr(staging, "write", full)
        with pytest.raises(DiskFull):
            await walk_of(files, Blobs(deltas[0].blobs)).walk([deltas[0].step()], staging)


async def test_a_chain_makes_the_file_in_between_and_goes_on_from_it(files: ModelFiles, deltas: list[Delta]) -> None:
    first, second = deltas
    source = Blobs({**first.blobs, **second.blobs})
    with files.stage(second.new) as staging:
        walk = walk_of(files, source)
        await walk.walk([first.step(), second.step()], staging)
        assert staging.commit().read_bytes() == second.target.read_bytes()
    assert walk.wire_bytes == first.index.size + second.index.size + first.new.digest.size
    between = files.folder / "steps" / f"{first.new.digest.hex}.gguf"
    assert between.read_bytes() == first.target.read_bytes()
    remove_steps(files)
    assert list(between.parent.iterdir()) == []
    assert ModelFiles(files.folder).manifest(first.new.digest.hex) is None, "it never was a revision of this node"


async def test_a_chain_that_was_killed_goes_on_from_what_it_has(files: ModelFiles, deltas: list[Delta]) -> None:
    first, second = deltas
    with files.stage(second.new) as staging:
        await walk_of(files, Blobs(first.blobs)).walk([first.step(), second.step()], staging)
        assert staging.missing
    source = Blobs({**first.blobs, **second.blobs})
    between = ModelFiles(files.folder / "steps")
    assert between.revisions() == [], "what is left after a delta that was no good makes room for chunks"
    with between.stage(first.new) as staging:
        content = first.target.read_bytes()
        for chunk in staging.missing:
            staging.write(chunk, content[chunk.offset : chunk.end])
        staging.commit()
    with files.stage(second.new) as staging:
        await walk_of(files, source).walk([first.step(), second.step()], staging)
        assert staging.missing == []
    assert not set(source.read_digests) & {first.index.digest, *first.index.packs}


@pytest.mark.parametrize("fault", ["no room", "does not make all", "too large"])
async def test_a_chain_that_cannot_be_walked_leaves_nothing_and_no_harm(
    files: ModelFiles, deltas: list[Delta], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    first, second = deltas
    blobs = {**first.blobs, **second.blobs}
    if fault == "no room":
        room = iter([1 << 40])
        monkeypatch.setattr("deltaic.store.staging.free_bytes", lambda _folder: next(room, 0))
    elif fault == "does not make all":
        del blobs[first.index.packs[0]]
    else:
        monkeypatch.setattr("deltaic.transfer.deltas.walking._MOST_TIMES", 0.5)
    with files.stage(second.new) as staging:
        before = staging.missing
        await walk_of(files, Blobs(blobs)).walk([first.step(), second.step()], staging)
        assert staging.missing == before
    assert list((files.folder / "steps").iterdir()) == []
