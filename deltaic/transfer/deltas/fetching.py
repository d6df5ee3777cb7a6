"""Making the chunks that a staging lacks from a file that is held and a delta: packs in, verified chunks out.

Nothing of a delta is believed. Packs and index are hashed because they are named by digest; what they make counts once
it is the chunk that the manifest names. A part that fails, for whatever reason, leaves its chunk to be fetched whole.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from deltaic.store.errors import DiskFailed, DiskFull
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.collect import Collector
from deltaic.transfer.source import Source
from deltaic.transfer.threads import in_thread, in_thread_with_stop
from deltaic.weights.delta.apply import make_chunk
from deltaic.weights.delta.index import MAX_INDEX_BYTES, DeltaIndex, Part
from deltaic.weights.digest import Buffer, Digest
from deltaic.weights.errors import BadDelta, WrongBase
from deltaic.weights.manifest import Chunk

_log = structlog.get_logger(__name__)

KeepBlob: TypeAlias = Callable[[Digest, bytes], Awaitable[None]]
"""Takes an index or a pack that arrived whole."""

_Arrived: TypeAlias = Callable[[Digest, list[bytes]], Awaitable[None]]
_Work: TypeAlias = list[tuple[Part, Chunk]]
_INDEX_SLACK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class DeltaOrder:
    """A delta to take: its index, the file that it starts from, and what that file must be."""

    index: Digest
    source: Path
    source_digest: Digest
    makers: int
    """How many chunks may be made at the same time."""


class DeltaFetch:
    """Fills one staging, as far as what is held and one delta can. Its numbers can be read while it runs."""

    def __init__(
        self,
        staging: Staging,
        sources: Sequence[Source],
        *,
        in_flight: int,
        retry: Retry,
        on_progress: Callable[[], None],
        keep: KeepBlob,
    ) -> None:
        """`keep` gets index and packs once they are verified; it does not raise."""
        self._staging = staging
        self._sources = sources
        self._in_flight = in_flight
        self._retry = retry
        self._on_progress = on_progress
        self._keep = keep
        self._collectors: list[Collector] = []
        self.resumed_bytes = 0
        """Verified bytes that were in place before. Here and below a chunk that occurs twice in a file counts once."""
        self.reused_bytes = 0
        """Bytes copied from other files of this node."""
        self.made_bytes = 0
        """Bytes of verified chunks that the delta made."""
        self.failed_parts = 0

    @property
    def wire_bytes(self) -> int:
        """Bytes that the line carried for index and packs."""
        return sum(collector.wire_bytes for collector in self._collectors)

    async def reuse(self) -> None:
        """Copy what other files of this node have. Raises DiskFull, DiskFailed."""
        whole = sum(digest.size for digest in self._staging.manifest.unique)
        self.resumed_bytes = whole - self._staging.missing_bytes
        await in_thread_with_stop(partial(self._reuse, asyncio.get_running_loop()))

    async def make(self, order: DeltaOrder) -> DeltaIndex:
        """Fetch the delta and make chunks with it; `staging.missing` says what it did not make.

        Raises BadDelta, UnknownDelta, WrongBase, SourceLied, SourceLacks (some packs could not be had), LineLost,
        DiskFull, DiskFailed, OSError.
        """
        index = await self._fetch_index(order)
        missing = self._staging.missing_bytes
        packs, free = self._work(index)
        if sum(digest.size for digest in packs) >= missing:
            raise BadDelta(f"the delta brings no less than the {missing:,} bytes that chunks would")
        with order.source.open("rb", buffering=0) as file:
            maker = _Maker(self._staging, index, file.fileno())
            makers = asyncio.Semaphore(order.makers)

            async def arrived(digest: Digest, pieces: list[bytes]) -> None:
                data = b"".join(pieces)
                await in_thread(digest.verify, data)
                await self._keep(digest, data)
                async with makers:
                    await self._make_all(maker, packs[digest], data)

            await self._make_all(maker, free, b"")
            await self._collect(list(packs), arrived)
        if self.failed_parts:
            _log.warning("delta.parts_failed", delta=str(order.index), parts=self.failed_parts, error=maker.error)
        return index

    async def _fetch_index(self, order: DeltaOrder) -> DeltaIndex:
        manifest = self._staging.manifest
        # An index says less of each chunk than a manifest does; a larger one is not read into memory.
        if order.index.size > min(MAX_INDEX_BYTES, 2 * manifest.digest.size + _INDEX_SLACK_BYTES):
            raise BadDelta(f"an index of {order.index.size:,} bytes for {len(manifest.chunks)} chunks")
        found: list[bytes] = []

        async def arrived(digest: Digest, pieces: list[bytes]) -> None:
            data = b"".join(pieces)
            await in_thread(digest.verify, data)
            found.append(data)

        await self._collect([order.index], arrived)
        index = await in_thread(DeltaIndex.parse, found[0])
        if index.target != manifest.file_digest:
            raise WrongBase(f"the delta makes {index.target}, wanted is {manifest.file_digest}")
        if index.source != order.source_digest:
            raise WrongBase(f"the delta is from {index.source}, held is {order.source_digest}")
        await self._keep(index.digest, found[0])
        return index

    async def _collect(self, digests: Sequence[Digest], arrived: _Arrived) -> None:
        collector = Collector(self._sources, arrived, self._retry)
        self._collectors.append(collector)
        await collector.collect(digests, in_flight=self._in_flight)

    def _work(self, index: DeltaIndex) -> tuple[dict[Digest, _Work], _Work]:
        """What each pack is to make, and what needs no pack: each missing chunk at one of its places."""
        missing = {chunk.digest for chunk in self._staging.missing}
        at = {chunk.offset: chunk for chunk in self._staging.manifest.chunks}
        packs: dict[Digest, _Work] = {}
        free: _Work = []
        for part in index.parts:
            chunk = at.get(part.target_offset)
            if chunk is not None and chunk.digest in missing and chunk.digest.size == part.target_length:
                missing.discard(chunk.digest)
                work = free if part.pack < 0 else packs.setdefault(index.packs[part.pack], [])
                work.append((part, chunk))
        return packs, free

    async def _make_all(self, maker: "_Maker", work: _Work, pack: bytes) -> None:
        for part, chunk in work:
            if await in_thread(maker.make, part, chunk, pack):
                self.made_bytes += chunk.digest.size
            else:
                self.failed_parts += 1
            self._on_progress()

    def _reuse(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        """In a thread, for it may be gigabytes."""

        def copied(size: int) -> None:
            self.reused_bytes += size
            loop.call_soon_threadsafe(self._on_progress)
            if stop.is_set():
                raise InterruptedError("the update was cancelled")

        self._staging.reuse(copied)


class _Maker:
    """Makes single chunks; for many threads."""

    def __init__(self, staging: Staging, index: DeltaIndex, source: int) -> None:
        """`source` is a file descriptor, read at offsets."""
        self._staging = staging
        self._index = index
        self._source = source
        self.error = ""
        """What the last part that failed failed with."""

    def make(self, part: Part, chunk: Chunk, pack: Buffer) -> bool:
        """Whether the chunk is in its place now. Raises DiskFull, DiskFailed."""
        payload = memoryview(pack)[part.payload_offset :][: part.payload_length]
        try:
            self._staging.write(chunk, make_chunk(self._index, part, self._read, payload))
        except (DiskFull, DiskFailed):
            raise
        except Exception as error:  # noqa: BLE001  # hostile bytes may break a codec in any way: then it made nothing
            self.error = f"{type(error).__name__}: {error}"[:300]
            return False
        return True

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._source, length, offset)
