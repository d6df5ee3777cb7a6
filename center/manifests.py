"""Manifests of published revisions, read from the chunk store and parsed; the ones used last are kept."""

from collections import OrderedDict

from deltaic.store.reading import ChunkReader
from deltaic.transfer.threads import in_thread
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES, Manifest

KEPT_BYTES = 32 << 20


class Manifests:
    """Bounded by the bytes that the kept manifests have when serialised; one is always kept."""

    def __init__(self, chunks: ChunkReader, kept_bytes: int = KEPT_BYTES) -> None:
        self._chunks = chunks
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[Digest, Manifest] = OrderedDict()

    async def get(self, digest: Digest) -> Manifest:
        """Raises ChunkNotFound, ChunkDamaged, BadManifest."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest]
        if digest.size > MAX_MANIFEST_BYTES:
            raise BadManifest(f"a manifest of {digest.size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are accepted")
        manifest = await in_thread(Manifest.parse, await self._chunks.read(digest))
        self._kept[digest] = manifest
        while len(self._kept) > 1 and sum(each.size for each in self._kept) > self._kept_bytes:
            self._kept.popitem(last=False)
        return manifest
