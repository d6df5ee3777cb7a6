"""Whole model files made from chunks, for trial loads and for answering: a bounded cache in `<data>/models`.

A file in use is leased and stays. The others stay while together they have at most `cache_bytes`; the one used longest
ago goes first. Every file can be made again from the chunk store, so nothing here is precious.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from deltaic.errors import DeltaicError
from deltaic.store.model_files import ModelFiles
from deltaic.store.reading import ChunkReader
from deltaic.store.staging import Staging
from deltaic.transfer.threads import in_thread
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Copy:
    """What is known of one file, whole or in the making."""

    leases: int = 0
    forgotten: bool = False
    """To be removed with the last lease."""
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shelf:
    """Lives on the event loop; disk work happens in threads."""

    def __init__(self, files: ModelFiles, chunks: ChunkReader, cache_bytes: int) -> None:
        """Blocks: removes what a crash left half made."""
        self._files = files
        self._chunks = chunks
        self._cache_bytes = cache_bytes
        for hex_ in files.unfinished():
            files.remove(hex_)
        held = (manifest.digest.hex for manifest in files.revisions())
        self._copies: OrderedDict[str, _Copy] = OrderedDict((hex_, _Copy()) for hex_ in held)

    @asynccontextmanager
    async def lease(self, manifest: Manifest) -> AsyncIterator[Path]:
        """The whole, verified file for as long as the block runs; made from chunks when absent, once for all who wait.

        Raises ChunkNotFound, ChunkDamaged, FileMismatch, DiskFull, DiskFailed.
        """
        hex_ = manifest.digest.hex
        copy = self._copies.setdefault(hex_, _Copy())
        copy.leases += 1
        copy.forgotten = False  # who wants it again has published it again
        try:
            async with copy.making:
                path = self._files.path(hex_) or await self._make(manifest)
            yield path
        finally:
            copy.leases -= 1
            self._copies.move_to_end(hex_)
            if copy.forgotten:
                await self._remove(hex_)
            await self._trim()

    async def discard(self, manifest: Manifest) -> None:
        """Remove a file that was refused, unless somebody uses it."""
        await self._remove(manifest.digest.hex)

    async def forget(self, hex_: str) -> None:
        """Remove the file of a revision that is no more, at once or when nobody uses it any more."""
        if hex_ in self._copies:
            self._copies[hex_].forgotten = True
            await self._remove(hex_)

    async def _make(self, manifest: Manifest) -> Path:
        staging = await in_thread(self._files.stage, manifest)
        try:
            await self._fill(staging)
            return await in_thread(staging.commit)
        except BaseException:
            await in_thread(staging.close)
            await in_thread(self._files.remove, manifest.digest.hex)
            raise
        finally:
            await in_thread(staging.close)

    async def _fill(self, staging: Staging) -> None:
        """Every chunk straight from the store, one at a time, also those that a file full of zeros has already:
        publishing must see the very bytes that nodes will fetch.
        """
        for chunk in {chunk.digest: chunk for chunk in staging.manifest.chunks}.values():
            await in_thread(staging.write, chunk, await self._chunks.read(chunk.digest))

    async def _trim(self) -> None:
        sizes = {manifest.digest.hex: manifest.size for manifest in self._files.revisions()}
        idle = [hex_ for hex_, copy in self._copies.items() if not copy.leases]
        surplus = sum(sizes.get(hex_, 0) for hex_ in idle) - self._cache_bytes
        for hex_ in idle:
            if surplus <= 0:
                return
            surplus -= sizes.get(hex_, 0)
            await self._remove(hex_)

    async def _remove(self, hex_: str) -> None:
        copy = self._copies.setdefault(hex_, _Copy())
        async with copy.making:
            # Another removal may have come first, and a new copy of the same file may be in the making already.
            if copy.leases or self._copies.get(hex_) is not copy:
                return
            try:
                await in_thread(self._files.remove, hex_)
            except DeltaicError as error:
                _log.warning("shelf.not_removed", revision=hex_, message=error.message)
                return
        # Who came while the file was removed waits for the same lock, and makes the file again.
        if not copy.leases:
            self._copies.pop(hex_, None)
