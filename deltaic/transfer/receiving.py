"""The receiving end of Write: frames become blobs, and only a blob that is complete and right is stored."""

from deltaic.rpc.channel import MAX_FRAME_BYTES
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.transfer.compression import Expander
from deltaic.transfer.errors import BadFrame, BadWrite
from deltaic.transfer.threads import in_thread
from deltaic.v1 import content_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch
from deltaic.weights.manifest import MAX_MANIFEST_BYTES

_PENDING_BLOBS = 256


class Receiver:
    """Takes the frames of one Write call. Memory: one blob and one frame."""

    def __init__(self, store: ObjectChunkStore) -> None:
        self._store = store
        self._digest: Digest | None = None
        self._content = bytearray()
        self._expander: Expander | None = None
        self._stored: list[Digest] = []
        self.bytes = 0
        """Bytes of the blobs stored so far, uncompressed."""
        self.blobs = 0

    async def accept(self, frame: content_pb2.WriteRequest) -> None:
        """Raises BadWrite, BadDigest, DiskFull."""
        if len(frame.data) > MAX_FRAME_BYTES:
            raise BadWrite(f"a frame of {len(frame.data):,} bytes", hint="a frame has at most 1 MiB")
        digest = self._blob_of(frame)
        self._content += await self._decode(frame)
        if len(self._content) > digest.size:
            raise BadWrite(f"more than the {digest.size:,} bytes of {digest}")
        if frame.end_of_blob:
            await self._store_blob(digest)

    def finish(self) -> None:
        """The stream ended. Raises BadWrite when it ended inside a blob."""
        if self._digest is not None:
            raise BadWrite(f"the stream ended inside {self._digest}")

    async def make_durable(self) -> None:
        """What was stored survives a power cut from here on."""
        stored, self._stored = self._stored, []
        if stored:
            await self._store.make_durable(stored)

    def _blob_of(self, frame: content_pb2.WriteRequest) -> Digest:
        if frame.HasField("digest"):
            named = Digest.from_proto(frame.digest)
            if self._digest is not None and named != self._digest:
                raise BadWrite(f"{named} starts before {self._digest} has ended")
            if self._digest is None:
                self._start(named, frame)
        if self._digest is None:
            raise BadWrite("the first frame of a blob names no digest")
        return self._digest

    def _start(self, digest: Digest, frame: content_pb2.WriteRequest) -> None:
        if digest.size > MAX_MANIFEST_BYTES:
            raise BadWrite(f"{digest} of {digest.size:,} bytes is larger than any chunk or manifest")
        self._digest = digest
        self._expander = Expander(digest.size) if frame.encoding == content_pb2.ENCODING_ZSTD else None

    async def _decode(self, frame: content_pb2.WriteRequest) -> bytes:
        if self._expander is None:
            return frame.data
        try:
            return await in_thread(self._expander.expand, frame.data)
        except BadFrame as error:
            raise BadWrite(error.message) from None

    async def _store_blob(self, digest: Digest) -> None:
        data, self._content = bytes(self._content), bytearray()
        self._digest = self._expander = None
        try:
            await self._store.put(digest, data)
        except DigestMismatch as error:
            raise BadWrite(error.message, digest=str(digest)) from None
        self._stored.append(digest)
        self.bytes += digest.size
        self.blobs += 1
        if len(self._stored) >= _PENDING_BLOBS:
            await self.make_durable()
