"""Bringing blobs from sources, whatever the lines do: resume, verify, refetch, take elsewhere, give up with a reason.

What is decided is decided in `deltaic.transfer.scheduling`; here are the streams. One that is cut goes on at the byte
that it had reached, at the same source or at another. A blob that arrives damaged is fetched again, elsewhere where it
can be; one that stays damaged does not keep the others from arriving.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.transfer.backoff import Retry
from deltaic.transfer.scheduling.ledger import Blob
from deltaic.transfer.scheduling.scheduler import BAD_COPIES, Scheduler
from deltaic.transfer.scheduling.stream import Stream
from deltaic.transfer.source import Source
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

__all__ = ["BAD_COPIES", "Collector"]

_log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 30.0


class _NotKept(Exception):
    """`keep` failed: that is no fault of a source, and ends the work."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Collector:
    """Brings blobs and hands each, whole and in the pieces that it came in, to `keep`, which verifies it."""

    def __init__(
        self, sources: Sequence[Source], keep: Callable[[Digest, list[bytes]], Awaitable[None]], retry: Retry
    ) -> None:
        """`keep` raises DigestMismatch for bytes that are not the blob; any other error of its own ends the work.

        The first source is preferred until they have been measured, and never asked what it lacks before it is used.
        """
        self._sources = sources
        self._keep = keep
        self._retry = retry
        self._scheduler = Scheduler((), [], streams=1, retry=retry)
        self._streams: dict[Stream, asyncio.Task[None]] = {}
        self._keeping: dict[Digest, asyncio.Lock] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self.wire_bytes = 0

    @property
    def cuts(self) -> int:
        """How many times a line failed."""
        return self._scheduler.cuts

    @property
    def bad_copies(self) -> int:
        """How many blobs arrived damaged."""
        return self._scheduler.bad_copies

    @property
    def arriving_bytes(self) -> int:
        """Bytes of blobs that have begun to arrive; unverified, in memory."""
        return self._scheduler.arriving_bytes

    @property
    def doubled_bytes(self) -> int:
        """Bytes of unverified blobs that were asked of a second source because the first was slow."""
        return self._scheduler.doubled_bytes

    async def collect(self, digests: Sequence[Digest], *, in_flight: int) -> None:
        """Bring all of them, in at most `in_flight` streams. Memory: a blob and a frame for each stream.

        Raises LineLost, SourceLied, SourceLacks, whatever `keep` raises, and refusals of a source as they come.
        """
        wanted = list(dict.fromkeys(digests))
        names = [source.name for source in self._sources]
        self._scheduler = Scheduler(wanted, names, streams=in_flight, retry=self._retry)
        questions = self._ask_others() if len(wanted) > 1 else []
        try:
            await self._run()
        finally:
            tasks = [*questions, *self._streams.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._streams.clear()

    async def _run(self) -> None:
        scheduler = self._scheduler
        while True:
            self._changed.clear()
            now = time.monotonic()
            self._stop(scheduler.overdue(now), "slow")
            while (stream := scheduler.next_stream(now)) is not None:
                self._streams[stream] = asyncio.create_task(self._bring(stream))
            if (error := self._failure or scheduler.error()) is not None:
                raise error
            if scheduler.finished:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, scheduler.wake_at(now) - now)):
                    await self._changed.wait()

    def _stop(self, streams: Sequence[Stream], why: str) -> None:
        """The scheduler has no more use for these."""
        for stream in streams:
            _log.debug("transfer.stopped", source=self._sources[stream.source].name, why=why)
            if (task := self._streams.get(stream)) is not None:
                task.cancel()

    async def _bring(self, stream: Stream) -> None:
        try:
            await self._read(stream)
        except _NotKept as failure:
            self._failure = self._failure or failure.cause
        except DeltaicError as error:
            self._failed(stream, error)
        except Exception as error:  # noqa: BLE001  # a mistake of ours; it ends the work as it is
            self._failure = self._failure or error
        finally:
            self._scheduler.end(stream, time.monotonic())
            self._streams.pop(stream, None)
            self._changed.set()

    async def _read(self, stream: Stream) -> None:
        async with aclosing(self._sources[stream.source].read(stream.ranges)) as pieces:
            async for piece in pieces:
                self.wire_bytes += piece.wire_bytes
                if not self._scheduler.is_wanted(stream):
                    return
                self._scheduler.heard(stream, piece.data, time.monotonic())
                if piece.end:
                    await self._complete(stream)
                    if not self._scheduler.is_wanted(stream):
                        return

    async def _complete(self, stream: Stream) -> None:
        """The present blob has arrived: verify it. Two streams may have brought it; it is kept once."""
        blob = stream.current
        assert blob is not None, "a stream is read only while it has a blob to come"
        stream.keeping = True
        lock = self._keeping.setdefault(blob.digest, asyncio.Lock())
        async with lock:
            if not blob.whole:
                await self._verify(stream, blob)
            else:
                self._scheduler.verified(stream, blob, time.monotonic())
        if not blob.carriers:
            self._keeping.pop(blob.digest, None)

    async def _verify(self, stream: Stream, blob: Blob) -> None:
        try:
            await self._keep(blob.digest, stream.arrived.pieces)
        except DigestMismatch as error:
            self._say_bad(stream, blob, error)
            self._scheduler.damaged(stream, blob, error, time.monotonic())
            self._changed.set()
        except Exception as error:
            raise _NotKept(error) from error
        else:
            self._stop(self._scheduler.verified(stream, blob, time.monotonic()), "somebody else was first")

    def _failed(self, stream: Stream, error: DeltaicError) -> None:
        name = self._sources[stream.source].name
        if error.code is Code.DATA_LOSS and stream.current is not None:
            self._say_bad(stream, stream.current, error)
        elif not stream.ended:
            _log.debug("transfer.cut", source=name, error=error.message)
        self._scheduler.failed(stream, error, time.monotonic())

    def _say_bad(self, stream: Stream, blob: Blob, error: DeltaicError) -> None:
        _log.warning(
            "transfer.bad_copy",
            digest=str(blob.digest),
            source=self._sources[stream.source].name,
            copies=blob.copies + 1,
            error=error.message,
        )

    def _ask_others(self) -> list[asyncio.Task[None]]:
        """Ask every source but the first what it lacks, before it gets work and now and then after that."""
        others = range(1, len(self._sources))
        self._scheduler.ask_first(others)
        return [asyncio.create_task(self._ask(source)) for source in others]

    async def _ask(self, source: int) -> None:
        while True:
            asked = self._scheduler.open
            try:
                missing = await self._sources[source].missing(asked)
            except DeltaicError as error:
                _log.debug("transfer.not_told", source=self._sources[source].name, error=error.message)
                self._scheduler.not_told(source, error, time.monotonic())
            except Exception as error:  # noqa: BLE001  # a mistake of ours; it ends the work as it is
                self._failure = self._failure or error
            else:
                self._scheduler.told(source, asked, missing)
            self._changed.set()
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
