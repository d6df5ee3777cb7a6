"""From a digest to a complete set of verified chunks on disk, each fetched once."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.collect import Collector
from deltaic.transfer.source import Source
from deltaic.transfer.threads import in_thread, in_thread_with_stop
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES, Chunk, Manifest

MOST_STREAMS = 8
"""Streams of one fetch at once, unless told otherwise."""

Progress = Callable[[int, int], None]
"""Called with (bytes verified so far, bytes in all); the first never decreases."""


@dataclass(frozen=True, slots=True)
class FetchStats:
    """What a fetch did. A chunk that occurs twice in a file counts once."""

    resumed_bytes: int
    """Verified bytes that an earlier, interrupted fetch had left."""
    reused_bytes: int
    """Bytes taken from other files of this node."""
    fetched_bytes: int
    """Bytes of verified chunks that came over the line, before compression."""
    wire_bytes: int
    """Bytes that the line carried for them: payloads of frames as sent, bad and repeated ones included."""
    seconds: float
    cuts: int
    """How many times the line failed."""
    bad_copies: int
    """How many chunks arrived damaged."""
    arriving_bytes: int = 0
    """Bytes of chunks that have begun to arrive; not verified yet, and in no other number."""
    doubled_bytes: int = 0
    """Bytes of unverified chunks that were asked of a second source, because the first was slow."""


async def fetch_manifest(
    source: Source | Sequence[Source], digest: Digest, *, retry: Retry | None = None
) -> tuple[Manifest, int]:
    """The manifest that `digest` names, verified and parsed, and the bytes that the line carried for it.

    Raises BadManifest (too large, or not a manifest), LineLost, SourceLied, SourceLacks.
    """
    if digest.size > MAX_MANIFEST_BYTES:
        raise BadManifest(f"a manifest of {digest.size:,} bytes is larger than the {MAX_MANIFEST_BYTES:,} allowed")
    arrived: list[bytes] = []

    async def keep(named: Digest, pieces: list[bytes]) -> None:
        await in_thread(named.verify_pieces, pieces)
        arrived.append(b"".join(pieces))

    sources = source if isinstance(source, Sequence) else [source]
    collector = Collector(sources, keep, retry or Retry())
    await collector.collect([digest], in_flight=1)
    return await in_thread(Manifest.parse, arrived[0]), collector.wire_bytes


async def fetch(
    staging: Staging,
    sources: Sequence[Source],
    *,
    in_flight: int = MOST_STREAMS,
    on_progress: Progress | None = None,
    retry: Retry | None = None,
) -> FetchStats:
    """Bring every chunk that `staging` lacks: first from files of this node, then from `sources`.

    As many streams at once as the lines reward, at most `in_flight`. Memory is bounded by that many times one chunk
    (4 MiB) and frames. Raises LineLost, SourceLied, SourceLacks, DiskFull; whatever arrived before stays in `staging`,
    verified. The caller commits.
    """
    return await Fetch(staging, sources, in_flight=in_flight, on_progress=on_progress, retry=retry).run()


class _Stopped(Exception):
    """The fetch was cancelled while it copied."""


class Fetch:
    """One fetch, whose numbers can be read while it runs."""

    def __init__(
        self,
        staging: Staging,
        sources: Sequence[Source],
        *,
        in_flight: int = MOST_STREAMS,
        on_progress: Progress | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._staging = staging
        self._in_flight = in_flight
        self._on_progress = on_progress
        self._collector = Collector(sources, self._keep, retry or Retry())
        self._chunks: dict[Digest, Chunk] = {}
        self._started = time.monotonic()
        self._resumed = 0
        self._reused = 0
        self._fetched = 0
        self.total = sum(digest.size for digest in staging.manifest.unique)
        """Bytes of all chunks, each counted once."""

    @property
    def stats(self) -> FetchStats:
        """As of now."""
        line = self._collector
        seconds = time.monotonic() - self._started
        return FetchStats(
            self._resumed,
            self._reused,
            self._fetched,
            line.wire_bytes,
            seconds,
            line.cuts,
            line.bad_copies,
            line.arriving_bytes,
            line.doubled_bytes,
        )

    async def run(self) -> FetchStats:
        """See `fetch`."""
        self._resumed = self.total - self._missing_bytes()
        self._report()
        await in_thread_with_stop(partial(self._reuse, asyncio.get_running_loop()))
        self._chunks = {chunk.digest: chunk for chunk in self._staging.missing}
        await self._collector.collect(list(self._chunks), in_flight=self._in_flight)
        return self.stats

    def _reuse(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        """In a thread: copy what other files have. It may be gigabytes, so it says how far it is and can be stopped."""

        def copied(size: int) -> None:
            self._reused += size
            loop.call_soon_threadsafe(self._report)
            if stop.is_set():
                raise _Stopped

        self._staging.reuse(copied)

    async def _keep(self, digest: Digest, pieces: list[bytes]) -> None:
        """Verify and write one chunk. Raises DigestMismatch, DiskFull."""
        await in_thread(self._staging.write_pieces, self._chunks[digest], pieces)
        self._fetched += digest.size
        self._report()

    def _missing_bytes(self) -> int:
        return self._staging.missing_bytes

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self._resumed + self._reused + self._fetched, self.total)
