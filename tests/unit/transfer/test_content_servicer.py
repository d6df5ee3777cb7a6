"""ContentService at its edges: what it refuses, and what a refused call leaves."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
import zstandard

from deltaic.errors import DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.store.addresses import open_chunk_store
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.v1 import content_pb2, content_pb2_grpc
from deltaic.weights.digest import Digest

DATA = bytes(range(256)) * 8
DIGEST = Digest.of(DATA)
OTHER = Digest.of(b"other")
BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
Serve = Callable[[Any], AbstractAsyncContextManager[grpc.aio.Channel]]


def frame(data: bytes, digest: Digest | None = None, end: bool = True, encoding: Any = None) -> Any:
    return content_pb2.WriteRequest(
        digest=digest.to_proto() if digest else None,
        data=data,
        encoding=encoding or content_pb2.ENCODING_IDENTITY,
        end_of_blob=end,
    )


async def write(channel: grpc.aio.Channel, frames: Iterable[Any]) -> content_pb2.WriteResponse:
    async def stream() -> AsyncIterator[Any]:
        for each in frames:
            yield each

    try:
        return await content_pb2_grpc.ContentServiceStub(channel).Write(stream(), timeout=10)
    except grpc.RpcError as error:
        raise from_rpc_error(error, "center") from error


async def refused(channel: grpc.aio.Channel, frames: Iterable[Any]) -> tuple[str, str]:
    with pytest.raises(DeltaicError) as raised:
        await write(channel, frames)
    return raised.value.code, raised.value.message


async def test_a_blob_in_several_frames_is_stored_once_and_durable(serve: Serve) -> None:
    store = open_chunk_store("memory://")
    frames = [frame(DATA[:100], DIGEST, end=False), frame(DATA[100:200], end=False), frame(DATA[200:], DIGEST)]
    async with serve(ContentServicer(store, store)) as channel:
        answer = await write(channel, [*frames, frame(b"other", OTHER)])
        assert (answer.committed_blobs, answer.committed_bytes) == (2, len(DATA) + 5)
        stub = content_pb2_grpc.ContentServiceStub(channel)
        held = await stub.QueryWrite(content_pb2.QueryWriteRequest(digest=DIGEST.to_proto()), timeout=10)
        assert (held.complete, held.committed_size) == (True, len(DATA))
    assert await store.read(DIGEST) == DATA


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([frame(DATA)], "names no digest"),
        ([frame(DATA[:10], DIGEST, end=False), frame(b"other", OTHER)], "starts before"),
        ([frame(DATA + b"!", DIGEST)], "more than the 2,048 bytes"),
        ([frame(DATA[:-1], DIGEST)], "2,048 bytes, got 2,047"),
        ([frame(DATA[:-1] + b"!", DIGEST)], "do not match"),
        ([frame(DATA[:10], DIGEST, end=False)], "ended inside"),
        ([frame(bytes((1 << 20) + 1), DIGEST)], "a frame of 1,048,577 bytes"),
        ([frame(BOMB, DIGEST, encoding=content_pb2.ENCODING_ZSTD)], "expands beyond"),
        ([frame(b"nonsense", DIGEST, encoding=content_pb2.ENCODING_ZSTD)], "does not decompress"),
        ([frame(b"", Digest(b"x" * 32, 1 << 40), end=False)], "larger than any chunk"),
        ([content_pb2.WriteRequest(digest=content_pb2.Digest(sha256=b"short", size=1))], "32 bytes"),
    ],
)
async def test_a_wrong_write_is_refused_and_stores_nothing(serve: Serve, frames: list[Any], message: str) -> None:
    store = open_chunk_store("memory://")
    async with serve(ContentServicer(store, store)) as channel:
        code, said = await refused(channel, frames)
    assert code == "INVALID_ARGUMENT"
    assert message in said
    assert await store.missing([DIGEST, OTHER]) == [DIGEST, OTHER]


async def test_what_came_before_the_wrong_blob_is_kept(serve: Serve) -> None:
    store = open_chunk_store("memory://")
    async with serve(ContentServicer(store, store)) as channel:
        await refused(channel, [frame(DATA, DIGEST), frame(b"wrong", OTHER)])
    assert await store.missing([DIGEST, OTHER]) == [OTHER]


async def test_a_blob_is_made_durable_before_the_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_chunk_store("memory://")
    durable: list[Digest] = []

    async def make_durable(digests: Iterable[Digest]) -> None:
        durable.extend(digests)

    monkeypatch.setattr(store, "make_durable", make_durable)
    async with serve(ContentServicer(store, store)) as channel:
        await write(channel, [frame(DATA, DIGEST), frame(b"other", OTHER)])
        assert durable == [DIGEST, OTHER]
        durable.clear()
        await refused(channel, [frame(DATA, DIGEST), frame(b"wrong", OTHER)])
        assert durable == [DIGEST], "FindMissing will say that it is here, so it must be here after a power cut"


def wanted(digest: Digest, offset: int = 0, limit: int = 0) -> content_pb2.ReadRange:
    return content_pb2.ReadRange(digest=digest.to_proto(), offset=offset, limit=limit)


async def read(channel: grpc.aio.Channel, *ranges: content_pb2.ReadRange) -> list[content_pb2.ReadResponse]:
    call = content_pb2_grpc.ContentServiceStub(channel).Read(content_pb2.ReadRequest(ranges=ranges), timeout=10)
    try:
        return [each async for each in call]
    except grpc.RpcError as error:
        raise from_rpc_error(error, "center") from error


async def test_offset_and_limit_cut_the_blob(serve: Serve) -> None:
    store = open_chunk_store("memory://")
    await store.put(DIGEST, DATA)
    async with serve(ContentServicer(store, None)) as channel:
        ranges = [wanted(DIGEST, 5, 10), wanted(DIGEST, 2_000), wanted(DIGEST, 2_048), wanted(DIGEST, 2_040, 100)]
        frames = await read(channel, *ranges)
    assert [each.data for each in frames] == [DATA[5:15], DATA[2_000:], b"", DATA[2_040:]]
    assert all(each.end_of_range for each in frames)


async def test_a_reader_that_names_no_encoding_gets_the_bytes_themselves(serve: Serve) -> None:
    text = b"words " * 100_000
    store = open_chunk_store("memory://")
    await store.put(Digest.of(text), text)
    async with serve(ContentServicer(store, None)) as channel:
        frames = await read(channel, wanted(Digest.of(text)))
    assert b"".join(each.data for each in frames) == text
    assert {each.encoding for each in frames} == {content_pb2.ENCODING_IDENTITY}
    assert max(len(each.data) for each in frames) <= 1 << 20


@pytest.mark.parametrize(
    ("ranges", "code"),
    [
        ([wanted(DIGEST, 2_049)], "INVALID_ARGUMENT"),
        ([wanted(Digest(b"x" * 32, 1 << 40))], "INVALID_ARGUMENT"),
        ([wanted(DIGEST)] * 1_001, "INVALID_ARGUMENT"),
        ([content_pb2.ReadRange()], "INVALID_ARGUMENT"),
        ([wanted(OTHER)], "NOT_FOUND"),
    ],
)
async def test_a_read_that_makes_no_sense_is_refused(serve: Serve, ranges: list[Any], code: str) -> None:
    store = open_chunk_store("memory://")
    await store.put(DIGEST, DATA)
    async with serve(ContentServicer(store, None)) as channel:
        with pytest.raises(DeltaicError) as raised:
            await read(channel, *ranges)
    assert raised.value.code == code


async def test_a_node_that_only_serves_refuses_writes_and_answers_the_rest(serve: Serve) -> None:
    store = open_chunk_store("memory://")
    await store.put(DIGEST, DATA)
    async with serve(ContentServicer(store, None)) as channel:
        assert (await refused(channel, [frame(DATA, DIGEST)]))[0] == "UNIMPLEMENTED"
        stub = content_pb2_grpc.ContentServiceStub(channel)
        request = content_pb2.FindMissingRequest(digests=[OTHER.to_proto(), DIGEST.to_proto()])
        assert list((await stub.FindMissing(request, timeout=10)).missing) == [OTHER.to_proto()]
        many = content_pb2.FindMissingRequest(digests=[DIGEST.to_proto()] * 10_001)
        with pytest.raises(grpc.RpcError, match="10001"):
            await stub.FindMissing(many, timeout=10)
