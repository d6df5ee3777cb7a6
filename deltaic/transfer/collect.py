"""Bringing blobs from sources, whatever the line does: resume, verify, refetch, give up with a reason.

A cut stream goes on at the byte it had reached. A blob that arrives damaged is fetched again, from the next source
where there are several; one that stays damaged does not keep the others from arriving.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.transfer.backoff import Attempts, Retry, may_pass
from deltaic.transfer.batches import group
from deltaic.transfer.errors import SourceLacks, SourceLied
from deltaic.transfer.source import Source, WantedRange
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

_log = structlog.get_logger(__name__)

BAD_COPIES = 3
_HOPELESS_BLOBS = 8


class _Batch:
    """Blobs of one stream that are still to come, and what has arrived of the first."""

    def __init__(self, digests: Sequence[Digest], turn: int) -> None:
        self.pending = list(digests)
        self.partial: list[bytes] = []
        self.turn = turn

    def ranges(self) -> list[WantedRange]:
        first, *others = self.pending
        return [WantedRange(first, sum(map(len, self.partial))), *(WantedRange(each) for each in others)]


class Collector:
    """Brings blobs and hands each, whole but in the pieces that it came in, to `keep`, which verifies it."""

    def __init__(
        self, sources: Sequence[Source], keep: Callable[[Digest, list[bytes]], Awaitable[None]], retry: Retry
    ) -> None:
        """`keep` raises DigestMismatch for bytes that are not the blob; any other error of its own ends the work."""
        self._sources = sources
        self._keep = keep
        self._attempts = Attempts(retry)
        self._copies: dict[Digest, int] = {}
        self._hopeless: dict[Digest, DeltaicError] = {}
        self.wire_bytes = 0
        self.bad_copies = 0

    @property
    def cuts(self) -> int:
        """How many times the line failed."""
        return self._attempts.waits

    async def collect(self, digests: Sequence[Digest], *, in_flight: int) -> None:
        """Bring all of them, in `in_flight` streams. Memory: a blob and a frame for each stream.

        Raises LineLost, SourceLied, SourceLacks, whatever `keep` raises, and refusals of a source as they come.
        """
        batches = deque(group(digests))
        turns = iter(range(len(batches)))

        async def work() -> None:
            while batches:
                await self._bring(_Batch(batches.popleft(), next(turns)))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(in_flight, len(batches))):
                    workers.create_task(work())
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        if self._hopeless:
            raise self._give_up()

    async def _bring(self, batch: _Batch) -> None:
        while batch.pending:
            source = self._sources[batch.turn % len(self._sources)]
            waits = self._attempts.waits
            try:
                async with self._attempts.stream():
                    waits = self._attempts.waits
                    await self._stream(source, batch)
            except DeltaicError as error:
                batch.turn += 1
                if error.code in (Code.DATA_LOSS, Code.NOT_FOUND):
                    self._bad_copy(batch, source, error)
                elif may_pass(error):
                    await self._attempts.failed(error, waits)
                else:
                    raise

    async def _stream(self, source: Source, batch: _Batch) -> None:
        async with aclosing(source.read(batch.ranges())) as pieces:
            async for piece in pieces:
                self.wire_bytes += piece.wire_bytes
                if piece.data:
                    batch.partial.append(piece.data)
                    self._attempts.progress()
                if piece.end:
                    await self._keep_first(batch, source)

    async def _keep_first(self, batch: _Batch, source: Source) -> None:
        pieces, batch.partial = batch.partial, []
        try:
            await self._keep(batch.pending[0], pieces)
        except DigestMismatch as error:
            batch.turn += 1
            self._bad_copy(batch, source, error)
        else:
            del batch.pending[0]

    def _bad_copy(self, batch: _Batch, source: Source, error: DeltaicError) -> None:
        """The first blob of the batch is not what it should be: try it once more, last, or not at all."""
        if not batch.pending:
            return  # all had arrived; what came after them is of no interest
        digest = batch.pending.pop(0)
        batch.partial.clear()
        self.bad_copies += 1
        copies = self._copies[digest] = self._copies.get(digest, 0) + 1
        _log.warning("transfer.bad_copy", digest=str(digest), source=source.name, copies=copies, error=error.message)
        if copies < max(BAD_COPIES, len(self._sources)):
            batch.pending.append(digest)
            return
        self._hopeless[digest] = error
        if len(self._hopeless) >= _HOPELESS_BLOBS:
            raise self._give_up()

    def _give_up(self) -> DeltaicError:
        digest, error = next(iter(self._hopeless.items()))
        names = ", ".join(source.name for source in self._sources)
        many = f"{len(self._hopeless)} blobs, the first {digest}," if len(self._hopeless) > 1 else str(digest)
        if all(each.code is Code.NOT_FOUND for each in self._hopeless.values()):
            return SourceLacks(f"{many} cannot be had from {names}", hint="publish the file again", digest=str(digest))
        return SourceLied(
            f"{many} arrives damaged from {names}: {error.message}",
            hint="the copy there is damaged: publish the file again",
            digest=str(digest),
        )


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the group; the others are its echoes."""
    error = failures.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
