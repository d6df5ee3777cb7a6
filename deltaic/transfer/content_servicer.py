"""ContentService over whatever holds chunks here: a store that takes writes, or materialised files that only serve."""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from deltaic.rpc.context import caller
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.reading import ChunkReader
from deltaic.transfer.compression import compress_if_it_pays
from deltaic.transfer.errors import BadRange, ReadOnlyNode
from deltaic.transfer.frames import FrameSize
from deltaic.transfer.receiving import Receiver
from deltaic.transfer.source import MAX_RANGES
from deltaic.transfer.threads import in_thread
from deltaic.v1 import content_pb2, content_pb2_grpc
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES

_log = structlog.get_logger(__name__)

MAX_DIGESTS = 10_000


class ContentServicer(content_pb2_grpc.ContentServiceServicer):
    """Serves what `reader` holds. `writer` None makes a node that takes no writes."""

    def __init__(self, reader: ChunkReader, writer: ObjectChunkStore | None) -> None:
        self._reader = reader
        self._writer = writer

    async def FindMissing(
        self,
        request: content_pb2.FindMissingRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # gRPC passes it
    ) -> content_pb2.FindMissingResponse:
        if len(request.digests) > MAX_DIGESTS:
            raise BadRange(f"asked for {len(request.digests)} digests at once", hint=f"ask for at most {MAX_DIGESTS}")
        digests = [Digest.from_proto(each) for each in request.digests]
        if self._writer is not None:
            # What is said to be held is not sent again, so it must stay until its revision is published.
            missing = await self._writer.claim(digests)
        else:
            missing = [digest for digest in digests if not await self._reader.has(digest)]
        return content_pb2.FindMissingResponse(missing=[digest.to_proto() for digest in missing])

    async def Read(
        self,
        request: content_pb2.ReadRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # gRPC passes it
    ) -> AsyncIterator[content_pb2.ReadResponse]:
        ranges = _checked(request)
        packs = content_pb2.ENCODING_ZSTD in request.accept_encodings
        _log.debug("content.read", node=caller().name, ranges=[(digest.hex, offset) for digest, offset, _ in ranges])
        frames = FrameSize()
        blobs = sent = 0
        try:
            for index, (digest, offset, limit) in enumerate(ranges):
                data = await self._reader.read(digest, offset, limit) if limit else b""
                packed = await in_thread(compress_if_it_pays, data) if packs else None
                encoding = content_pb2.ENCODING_IDENTITY if packed is None else content_pb2.ENCODING_ZSTD
                body = data if packed is None else packed
                start = 0
                while start < max(len(body), 1):  # nothing is one empty frame: the reader waits for an end
                    end = start + frames.size
                    began = time.monotonic()
                    yield content_pb2.ReadResponse(
                        range_index=index, encoding=encoding, data=body[start:end], end_of_range=end >= len(body)
                    )
                    frames.sent(time.monotonic() - began)
                    start = end
                sent += len(body)
                blobs += 1
        finally:
            # Late when the reader was cut: gRPC then leaves the generator to the garbage collector.
            _log.debug("content.read_ended", asked=len(ranges), blobs=blobs, sent_bytes=sent)

    async def Write(
        self,
        request_iterator: AsyncIterator[content_pb2.WriteRequest],
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # gRPC passes it
    ) -> content_pb2.WriteResponse:
        receiver = Receiver(self._writable())
        try:
            async for frame in request_iterator:
                await receiver.accept(frame)
            receiver.finish()
        finally:
            # Also when the line was cut: a blob that FindMissing will report as held must survive a power cut.
            await receiver.make_durable()
        return content_pb2.WriteResponse(committed_bytes=receiver.bytes, committed_blobs=receiver.blobs)

    async def QueryWrite(
        self,
        request: content_pb2.QueryWriteRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # gRPC passes it
    ) -> content_pb2.QueryWriteResponse:
        digest = Digest.from_proto(request.digest)
        complete = await self._writable().has(digest)
        return content_pb2.QueryWriteResponse(committed_size=digest.size if complete else 0, complete=complete)

    def _writable(self) -> ObjectChunkStore:
        if self._writer is None:
            raise ReadOnlyNode("this node takes no writes", hint="publish to the center")
        return self._writer


def _checked(request: content_pb2.ReadRequest) -> list[tuple[Digest, int, int]]:
    """Digest, offset and number of bytes of every range; nothing is sent unless all make sense. Raises BadRange."""
    if len(request.ranges) > MAX_RANGES:
        raise BadRange(f"asked for {len(request.ranges)} blobs at once", hint=f"ask for at most {MAX_RANGES}")
    checked = []
    for each in request.ranges:
        digest = Digest.from_proto(each.digest)
        if digest.size > MAX_MANIFEST_BYTES:
            raise BadRange(f"{digest} of {digest.size:,} bytes is larger than any chunk or manifest")
        if each.offset > digest.size:
            raise BadRange(f"offset {each.offset:,} is beyond the {digest.size:,} bytes of {digest}")
        rest = digest.size - each.offset
        checked.append((digest, each.offset, min(each.limit or rest, rest)))
    return checked
