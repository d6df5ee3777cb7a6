"""Where chunks come from. A source is asked for ranges and streams their bytes; they are believed once they are hashed.

`GrpcSource` reads another node's ContentService; `ReaderSource` reads a store of this node, so that a center
materialises its own models by the same road.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import grpc

from deltaic.rpc.channel import MAX_FRAME_BYTES
from deltaic.rpc.status import from_rpc_error
from deltaic.store.reading import ChunkReader
from deltaic.transfer.compression import Expander, LineSpeed
from deltaic.transfer.errors import BadFrame, LineLost
from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.threads import in_thread
from deltaic.v1 import content_pb2, content_pb2_grpc
from deltaic.weights.digest import Digest

MAX_RANGES = 1_000
_DIGESTS_A_QUESTION = 10_000
_QUESTION_SECONDS = 10.0
_HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WantedRange:
    """The bytes of a blob from `offset` (uncompressed bytes) to its end."""

    digest: Digest
    offset: int = 0

    @property
    def length(self) -> int:
        """Bytes that are to come."""
        return self.digest.size - self.offset


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of one range, in order, decompressed but not yet hashed."""

    index: int
    """Which of the ranges asked for."""
    data: bytes
    """Empty, too, while a source holds itself to a rate limit: a sign that it is not the line that is silent."""
    wire_bytes: int
    """What they took on the line: the frame's payload as it was sent."""
    end: bool
    """Nothing more comes of this range."""


class Source(Protocol):
    """Streams ranges in the order asked."""

    @property
    def name(self) -> str:
        """For people, for example "edge 127.0.0.1:7410"."""

    def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        """At most 1,000 ranges. Raises Unavailable when cut, NotFound, DataLoss (which the source found itself)."""

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of any number of blobs that the source does not hold. Raises Unavailable; Unimplemented."""


class GrpcSource:
    """Another node's ContentService."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        name: str,
        *,
        timeout: float = 300.0,
        idle_timeout: float = 30.0,
        limit: RateLimit | None = None,
    ) -> None:
        """`timeout` bounds one call, `idle_timeout` the wait for its next frame, both in seconds.

        `limit` is held by all sources of a node together: whatever comes through any of them counts.
        """
        self._stub = content_pb2_grpc.ContentServiceStub(channel)
        self._name = name
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._limit = limit
        self._line = LineSpeed()

    @property
    def name(self) -> str:
        return self._name

    async def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        order = _Order(ranges, self._name)
        async for index in self._paced(0, 0):
            yield Piece(index, b"", 0, end=False)
        async with aclosing(self._frames(_request(ranges, packed=self._wants_zstd))) as frames:
            async for frame in frames:
                piece = await order.accept(frame)
                yield piece
                async for index in self._paced(piece.wire_bytes, order.index):
                    yield Piece(index, b"", 0, end=False)
        order.finish()

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        missing: list[Digest] = []
        for start in range(0, len(digests), _DIGESTS_A_QUESTION):
            asked = digests[start : start + _DIGESTS_A_QUESTION]
            request = content_pb2.FindMissingRequest(digests=[each.to_proto() for each in asked])
            try:
                answer = await self._stub.FindMissing(request, timeout=_QUESTION_SECONDS)
            except grpc.RpcError as error:
                raise from_rpc_error(error, self._name) from error
            missing += [Digest.from_proto(each) for each in answer.missing]
        return missing

    @property
    def _wants_zstd(self) -> bool:
        """Under a rate limit every byte counts, however fast the line."""
        return not self._line.outruns_zstd or (self._limit is not None and self._limit.rate is not None)

    async def _paced(self, count: int, index: int) -> AsyncGenerator[int, None]:
        """Wait until the rate limit allows what came; yields now and then, so that the reader sees us alive."""
        if self._limit is not None:
            ticket = self._limit.take(count)
            while not await self._limit.wait(ticket, at_most=_HEARTBEAT_SECONDS):
                yield index

    async def _frames(self, request: content_pb2.ReadRequest) -> AsyncGenerator[content_pb2.ReadResponse, None]:
        call = self._stub.Read(request, timeout=self._timeout)
        frames = aiter(call)
        try:
            while True:
                frame = await self._next(frames)
                if frame is None:
                    return
                yield frame
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._name) from error
        except TimeoutError:
            raise LineLost(f"{self._name} sent nothing for {self._idle_timeout:g} seconds") from None
        finally:
            call.cancel()

    async def _next(self, frames: AsyncIterator[content_pb2.ReadResponse]) -> content_pb2.ReadResponse | None:
        self._line.waits(time.monotonic())
        count = 0
        try:
            async with asyncio.timeout(self._idle_timeout):
                frame = await anext(frames, None)
            count = len(frame.data) if frame is not None else 0
        finally:
            self._line.comes(count, time.monotonic())
        return frame


class ReaderSource:
    """A store of this node, for example the center's chunks."""

    def __init__(self, reader: ChunkReader, name: str) -> None:
        self._reader = reader
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        for index, wanted in enumerate(ranges):
            data = await self._reader.read(wanted.digest, wanted.offset)
            yield Piece(index, data, len(data), end=True)

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        return [digest for digest in digests if not await self._reader.has(digest)]


def _request(ranges: Sequence[WantedRange], *, packed: bool) -> content_pb2.ReadRequest:
    zstd = [content_pb2.ENCODING_ZSTD] if packed else []
    return content_pb2.ReadRequest(
        ranges=[content_pb2.ReadRange(digest=each.digest.to_proto(), offset=each.offset) for each in ranges],
        accept_encodings=[content_pb2.ENCODING_IDENTITY, *zstd],
    )


class _Order:
    """Holds a stream to the contract: ranges in order, frames of at most 1 MiB, never more bytes than asked for."""

    def __init__(self, ranges: Sequence[WantedRange], name: str) -> None:
        self._ranges = ranges
        self._name = name
        self.index = 0
        """The range that is coming."""
        self._received = 0
        self._expander: Expander | None = None

    async def accept(self, frame: content_pb2.ReadResponse) -> Piece:
        """Raises BadFrame."""
        if self.index >= len(self._ranges) or frame.range_index != self.index or len(frame.data) > MAX_FRAME_BYTES:
            raise BadFrame(f"{self._name} sent a frame that was not asked for")
        data = await self._decode(frame)
        self._received += len(data)
        wanted = self._ranges[self.index].length
        if self._received > wanted or (frame.end_of_range and self._received < wanted):
            raise BadFrame(f"{self._name} sent {self._received} bytes of a range of {wanted}")
        piece = Piece(self.index, data, len(frame.data), frame.end_of_range)
        if frame.end_of_range:
            self.index, self._received, self._expander = self.index + 1, 0, None
        return piece

    async def _decode(self, frame: content_pb2.ReadResponse) -> bytes:
        if frame.encoding != content_pb2.ENCODING_ZSTD:
            return frame.data
        if self._expander is None:
            self._expander = Expander(self._ranges[self.index].length)
        return await in_thread(self._expander.expand, frame.data)

    def finish(self) -> None:
        """Raises LineLost when the stream ended early."""
        if self.index < len(self._ranges):
            raise LineLost(f"{self._name} ended the stream after {self.index} of {len(self._ranges)} blobs")
