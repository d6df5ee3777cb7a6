"""The one way in which anything is read from a store, whatever the store is."""

import asyncio
from typing import Protocol

from deltaic.store.errors import BadRange, ChunkDamaged, ChunkNotFound
from deltaic.weights.digest import Digest

# Hashing less than this takes a fraction of a millisecond: cheaper than a hop to a thread.
_HASH_INLINE_BYTES = 64 * 1024


class ChunkReader(Protocol):
    """Chunks and manifests by digest. `tests/contract/test_chunk_reader.py` is what an implementation must pass."""

    async def has(self, digest: Digest) -> bool:
        """Whether the blob is here, by name and size; its bytes are only checked when they are read."""
        ...

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        """The bytes from `offset`, at most `limit` of them, None meaning to the end.

        The whole blob is hashed before any of it is returned, so wrong bytes never leave; whoever sends a blob in
        pieces reads it once and cuts it. Raises BadRange, ChunkNotFound, ChunkDamaged.
        """
        ...


class ReadersInTurn:
    """Several ChunkReaders as one: a blob comes from the first that has it whole."""

    def __init__(self, *readers: ChunkReader) -> None:
        self._readers = readers

    async def has(self, digest: Digest) -> bool:
        """See ChunkReader."""
        for reader in self._readers:
            if await reader.has(digest):
                return True
        return False

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        """See ChunkReader. A blob that is damaged in one place is looked for in the others."""
        check_range(digest, offset, limit)
        damaged: ChunkDamaged | None = None
        for reader in self._readers:
            if await reader.has(digest):
                try:
                    return await reader.read(digest, offset, limit)
                except ChunkNotFound:
                    continue
                except ChunkDamaged as error:
                    damaged = damaged or error
        if damaged is not None:
            raise damaged
        # Asked although it denies: its error says best what to do.
        return await self._readers[-1].read(digest, offset, limit)


def check_range(digest: Digest, offset: int, limit: int | None) -> None:
    """Raises BadRange unless the range lies inside the blob; an empty range at its end is allowed."""
    if offset < 0 or offset > digest.size or (limit is not None and limit < 0):
        asked = f"offset {offset}" if limit is None else f"offset {offset}, limit {limit}"
        raise BadRange(f"{asked} is outside the {digest.size} bytes of {digest}", hint="ask for bytes that it has")


def cut(data: bytes, offset: int, limit: int | None) -> bytes:
    """The asked part of a verified blob."""
    if offset == 0 and (limit is None or limit >= len(data)):
        return data
    return data[offset:] if limit is None else data[offset : offset + limit]


async def verify_async(digest: Digest, data: bytes) -> None:
    """Hash without holding up the event loop. Raises DigestMismatch."""
    if len(data) <= _HASH_INLINE_BYTES:
        digest.verify(data)
    else:
        await asyncio.to_thread(digest.verify, data)
