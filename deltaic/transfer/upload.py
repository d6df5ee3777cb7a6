"""Sending a model file to the center: only the chunks that it lacks, in calls small enough that a cut loses little."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from deltaic.errors import DeltaicError
from deltaic.rpc.channel import MAX_FRAME_BYTES
from deltaic.rpc.status import from_rpc_error
from deltaic.transfer.backoff import Attempts, Retry, may_pass
from deltaic.transfer.batches import group
from deltaic.transfer.compression import compress_if_it_pays
from deltaic.transfer.errors import FileChanged
from deltaic.transfer.threads import in_thread
from deltaic.v1 import content_pb2, content_pb2_grpc
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

CALL_BYTES = 32 << 20
CALL_BLOBS = 1_000
_DIGESTS_A_QUESTION = 10_000


@dataclass(frozen=True, slots=True)
class UploadStats:
    """What an upload did. A chunk that occurs twice in a file counts once."""

    full_bytes: int
    """Bytes of all chunks and of the manifest."""
    held_bytes: int
    """What the center already had when it was first asked."""
    sent_bytes: int
    """Bytes of the blobs sent, before compression; blobs sent again after a cut count again."""
    wire_bytes: int
    """Bytes that the line carried for them."""
    seconds: float


async def upload(
    path: Path,
    manifest: Manifest,
    channel: grpc.aio.Channel,
    *,
    target: str,
    on_progress: Callable[[int, int], None] | None = None,
    retry: Retry | None = None,
    call_timeout: float = 300.0,
) -> UploadStats:
    """Store every chunk of the file at `path` and then its manifest at the node behind `channel`.

    `target` names that node in errors; `on_progress` gets (bytes there, bytes in all), never decreasing;
    `call_timeout` bounds one call, in seconds. A second upload after a cut sends only what is still missing.

    Raises FileChanged, LineLost, the node's refusal (RESOURCE_EXHAUSTED when its disk is full), OSError when the file
    cannot be read.
    """
    started = time.monotonic()
    with path.open("rb") as file:
        blobs = _Blobs(file.fileno(), path, manifest)
        sending = _Upload(content_pb2_grpc.ContentServiceStub(channel), target, blobs, retry or Retry(), call_timeout)
        sending.on_progress = on_progress
        await sending.send_all()
    return UploadStats(
        sending.total, sending.held, sending.sent, sending.wire_bytes, time.monotonic() - started
    )  # fmt: skip


class _Blobs:
    """Reads the chunks of one open file, and notices when it is no longer the file of the manifest."""

    def __init__(self, descriptor: int, path: Path, manifest: Manifest) -> None:
        self._descriptor = descriptor
        self._path = path
        self.manifest = manifest

    def read(self, digest: Digest) -> bytes:
        """Raises FileChanged."""
        if digest == self.manifest.digest:
            return self.manifest.data
        offset = self.manifest.unique[digest][0]
        data = os.pread(self._descriptor, digest.size, offset)
        if not digest.matches(data):
            raise FileChanged(
                f"{self._path} is not what it was when publishing began: {digest.size:,} bytes at {offset:,} differ",
                hint="wait until whoever writes the file is done, then publish again",
            )
        return data

    def frames(self, digest: Digest) -> list[content_pb2.WriteRequest]:
        """One blob as frames of at most 1 MiB, compressed where that pays. Raises FileChanged."""
        data = self.read(digest)
        packed = compress_if_it_pays(data)
        body = data if packed is None else packed
        encoding = content_pb2.ENCODING_IDENTITY if packed is None else content_pb2.ENCODING_ZSTD
        starts = range(0, max(len(body), 1), MAX_FRAME_BYTES)
        frames = [content_pb2.WriteRequest(data=body[start : start + MAX_FRAME_BYTES]) for start in starts]
        frames[0].MergeFrom(content_pb2.WriteRequest(digest=digest.to_proto(), encoding=encoding))
        frames[-1].end_of_blob = True
        return frames


class _Upload:
    """The progress of one upload."""

    def __init__(
        self, stub: "content_pb2_grpc.ContentServiceAsyncStub", target: str, blobs: _Blobs, retry: Retry, timeout: float
    ) -> None:
        self._stub = stub
        self._target = target
        self._blobs = blobs
        self._attempts = Attempts(retry)
        self._timeout = timeout
        self._chunks = list(blobs.manifest.unique)
        self._stored = 0
        self._reported = 0
        self.total = _bytes(self._chunks) + blobs.manifest.digest.size
        self.held = 0
        self.sent = 0
        self.wire_bytes = 0
        self.on_progress: Callable[[int, int], None] | None = None

    async def send_all(self) -> None:
        """Chunks first and the manifest last: a manifest refers only to what is stored."""
        missing = await self._missing([*self._chunks, self._blobs.manifest.digest])
        self.held = self._stored = self.total - _bytes(missing)
        self._report(self.held)
        await self._send([digest for digest in missing if digest != self._blobs.manifest.digest])
        await self._send([digest for digest in missing if digest == self._blobs.manifest.digest])

    async def _send(self, missing: list[Digest]) -> None:
        for batch in group(missing, max_bytes=CALL_BYTES, max_blobs=CALL_BLOBS):
            left: Sequence[Digest] = batch
            while left:
                waits = self._attempts.waits
                try:
                    await self._write(left)
                    left = ()
                except DeltaicError as error:
                    if not (may_pass(error) or error.reason == "BAD_WRITE"):
                        raise
                    # Nothing that leaves here is wrong, so a blob that was refused was bent on the line.
                    await self._attempts.failed(error, waits)
                    left = await self._still_missing(left)
            self._stored += _bytes(batch)
            self._report(self._stored)

    async def _still_missing(self, sent: Sequence[Digest]) -> list[Digest]:
        left = await self._missing(sent)
        if len(left) < len(sent):
            self._attempts.progress()
        return left

    async def _missing(self, digests: Sequence[Digest]) -> list[Digest]:
        missing: list[Digest] = []
        for start in range(0, len(digests), _DIGESTS_A_QUESTION):
            missing += await self._ask(digests[start : start + _DIGESTS_A_QUESTION])
        return missing

    async def _ask(self, digests: Sequence[Digest]) -> list[Digest]:
        request = content_pb2.FindMissingRequest(digests=[digest.to_proto() for digest in digests])
        while True:
            waits = self._attempts.waits
            try:
                answer = await self._stub.FindMissing(request, timeout=self._timeout)
                return [Digest.from_proto(each) for each in answer.missing]
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, self._target)
                if not may_pass(error):
                    raise error from failure
                await self._attempts.failed(error, waits)

    async def _write(self, digests: Sequence[Digest]) -> None:
        broken: list[Exception] = []
        try:
            await self._stub.Write(self._frames(digests, broken), timeout=self._timeout)
        except grpc.RpcError as failure:
            if not broken:
                raise from_rpc_error(failure, self._target) from failure
        if broken:
            raise broken[0]

    async def _frames(
        self, digests: Sequence[Digest], broken: list[Exception]
    ) -> AsyncIterator[content_pb2.WriteRequest]:
        """An error ends the stream before the end of a blob, so that the node drops it, and is kept for the caller."""
        reached = self._stored
        try:
            for digest in digests:
                for frame in await in_thread(self._blobs.frames, digest):
                    self.wire_bytes += len(frame.data)
                    yield frame
                self.sent += digest.size
                reached += digest.size
                self._report(reached)
        except (DeltaicError, OSError) as error:
            broken.append(error)

    def _report(self, reached: int) -> None:
        """What a cut undoes is not taken back: the next report waits until it is more again."""
        self._reported = max(self._reported, reached)
        if self.on_progress:
            self.on_progress(self._reported, self.total)


def _bytes(digests: Iterable[Digest]) -> int:
    return sum(digest.size for digest in digests)
