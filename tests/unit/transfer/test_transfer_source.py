"""What every source promises, and how a lying one is found out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
import zstandard

from deltaic.errors import Code, DeltaicError
from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.transfer.backoff import Retry
from deltaic.transfer.collect import Collector
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.transfer.errors import BadFrame, LineLost, SourceLacks, SourceLied
from deltaic.transfer.fetch import fetch_manifest
from deltaic.transfer.source import GrpcSource, Piece, ReaderSource, Source, WantedRange
from deltaic.v1 import content_pb2, content_pb2_grpc
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest

TEXT = b"words and words " * 100_000
NOISE = bytes(range(256)) * 3
BLOBS = [TEXT, NOISE, b"x"]
Serve = Callable[[Any], AbstractAsyncContextManager[grpc.aio.Channel]]
OpenSource = Callable[[ObjectChunkStore], AbstractAsyncContextManager[Source]]
ONCE = Retry(failures=1)


@pytest.fixture(params=["reader", "grpc"])
def open_source(request: pytest.FixtureRequest, serve: Serve) -> OpenSource:
    """Every implementation of Source over the same store."""

    @asynccontextmanager
    async def local(store: ObjectChunkStore) -> AsyncIterator[Source]:
        yield ReaderSource(store, "here")

    @asynccontextmanager
    async def remote(store: ObjectChunkStore) -> AsyncIterator[Source]:
        async with serve(ContentServicer(store, None)) as channel:
            yield GrpcSource(channel, "there")

    return local if request.param == "reader" else remote


async def full_store() -> ObjectChunkStore:
    store = open_chunk_store("memory://")
    for blob in BLOBS:
        await store.put(Digest.of(blob), blob)
    return store


async def read(source: Source, ranges: list[WantedRange]) -> tuple[dict[int, bytes], list[Piece]]:
    pieces = [piece async for piece in source.read(ranges)]
    content: dict[int, bytes] = {}
    for piece in pieces:
        content[piece.index] = content.get(piece.index, b"") + piece.data
    return content, pieces


class TestEverySource:
    async def test_ranges_come_whole_and_in_order(self, open_source: OpenSource) -> None:
        async with open_source(await full_store()) as source:
            content, pieces = await read(source, [WantedRange(Digest.of(blob)) for blob in BLOBS])
        assert content == dict(enumerate(BLOBS))
        assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
        assert [piece.index for piece in pieces if piece.end] == [0, 1, 2]

    async def test_an_offset_skips_what_is_there_already(self, open_source: OpenSource) -> None:
        async with open_source(await full_store()) as source:
            wanted = [WantedRange(Digest.of(TEXT), 1_234_567), WantedRange(Digest.of(NOISE), len(NOISE))]
            content, pieces = await read(source, wanted)
        assert content == {0: TEXT[1_234_567:], 1: b""}
        assert pieces[-1].end

    async def test_a_blob_that_is_not_there_is_not_found_after_those_before_it(self, open_source: OpenSource) -> None:
        async with open_source(await full_store()) as source:
            pieces = source.read([WantedRange(Digest.of(NOISE)), WantedRange(Digest.of(b"absent"))])
            assert (await anext(pieces)).end
            with pytest.raises(DeltaicError) as raised:
                await anext(pieces)
        assert raised.value.code is Code.NOT_FOUND

    async def test_a_reader_may_leave_in_the_middle(self, open_source: OpenSource) -> None:
        async with open_source(await full_store()) as source:
            pieces = source.read([WantedRange(Digest.of(TEXT))])
            await anext(pieces)
            await pieces.aclose()


async def test_text_takes_fewer_bytes_on_the_wire_than_it_has(serve: Serve) -> None:
    async with serve(ContentServicer(await full_store(), None)) as channel:
        _, pieces = await read(GrpcSource(channel, "there"), [WantedRange(Digest.of(TEXT))])
    assert sum(piece.wire_bytes for piece in pieces) < len(TEXT) / 10


class Lying(content_pb2_grpc.ContentServiceServicer):
    """Answers every Read with the same frames."""

    def __init__(self, *frames: content_pb2.ReadResponse, then_silent: bool = False) -> None:
        self._frames = frames
        self._then_silent = then_silent
        self.reads = 0

    async def Read(self, request: content_pb2.ReadRequest, context: Any) -> AsyncIterator[content_pb2.ReadResponse]:
        self.reads += 1
        for frame in self._frames:
            yield frame
        if self._then_silent:
            await asyncio.sleep(60)


def frame(data: bytes, index: int = 0, end: bool = True, encoding: Any = None) -> content_pb2.ReadResponse:
    return content_pb2.ReadResponse(
        range_index=index, data=data, end_of_range=end, encoding=encoding or content_pb2.ENCODING_IDENTITY
    )


BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))


@pytest.mark.parametrize(
    "frames",
    [
        [frame(NOISE, index=1)],
        [frame(NOISE + b"more")],
        [frame(NOISE, end=False), frame(NOISE, end=False)],
        [frame(NOISE[:-1])],
        [frame(bytes((1 << 20) + 1))],
        [frame(NOISE), frame(NOISE, index=1)],
        [frame(BOMB, encoding=content_pb2.ENCODING_ZSTD)],
        [frame(b"not zstd", encoding=content_pb2.ENCODING_ZSTD)],
    ],
    ids=["wrong index", "too long", "twice", "too short", "huge frame", "not asked for", "bomb", "not zstd"],
)
async def test_a_stream_that_breaks_the_contract_is_refused(
    serve: Serve, frames: list[content_pb2.ReadResponse]
) -> None:
    async with serve(Lying(*frames)) as channel:
        with pytest.raises(BadFrame):
            await read(GrpcSource(channel, "liar"), [WantedRange(Digest.of(NOISE))])


async def test_a_stream_that_ends_early_is_a_cut(serve: Serve) -> None:
    async with serve(Lying(frame(NOISE[:100], end=False))) as channel:
        with pytest.raises(LineLost, match="ended the stream"):
            await read(GrpcSource(channel, "there"), [WantedRange(Digest.of(NOISE))])


async def test_a_stream_that_falls_silent_is_a_cut(serve: Serve) -> None:
    async with serve(Lying(frame(NOISE[:100], end=False), then_silent=True)) as channel:
        with pytest.raises(LineLost, match="sent nothing for 0"):
            await read(GrpcSource(channel, "there", idle_timeout=0.2), [WantedRange(Digest.of(NOISE))])


async def test_a_source_that_always_lies_is_asked_three_times(serve: Serve) -> None:
    liar = Lying(frame(b"y" * len(NOISE)))

    async def keep(digest: Digest, pieces: list[bytes]) -> None:
        digest.verify_pieces(pieces)

    async with serve(liar) as channel:
        with pytest.raises(SourceLied, match="liar"):
            await Collector([GrpcSource(channel, "liar")], keep, ONCE).collect([Digest.of(NOISE)], in_flight=4)
    assert liar.reads == 3


async def test_an_honest_source_makes_up_for_a_lying_one(serve: Serve) -> None:
    kept: list[Digest] = []

    async def keep(digest: Digest, pieces: list[bytes]) -> None:
        digest.verify_pieces(pieces)
        kept.append(digest)

    async with serve(Lying(frame(b"y" * len(NOISE)))) as channel:
        sources: list[Source] = [GrpcSource(channel, "liar"), ReaderSource(await full_store(), "honest")]
        collector = Collector(sources, keep, ONCE)
        await collector.collect([Digest.of(NOISE)], in_flight=4)
    assert kept == [Digest.of(NOISE)]
    assert collector.bad_copies == 1


async def test_a_manifest_that_nobody_holds_says_so() -> None:
    source = ReaderSource(open_chunk_store("memory://"), "the store")
    with pytest.raises(SourceLacks, match="cannot be had from the store"):
        await fetch_manifest(source, Digest.of(b"absent"), retry=ONCE)


async def test_a_manifest_beyond_all_bounds_is_not_even_asked_for() -> None:
    with pytest.raises(BadManifest, match="larger than"):
        await fetch_manifest([], Digest(b"x" * 32, 1 << 40))


async def test_an_error_of_keeping_ends_the_work() -> None:
    async def keep(digest: Digest, pieces: list[bytes]) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await Collector([ReaderSource(await full_store(), "here")], keep, ONCE).collect(
            [Digest.of(blob) for blob in BLOBS], in_flight=2
        )
