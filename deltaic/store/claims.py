"""Claims: who counts on blobs that no manifest in a catalog names yet. What is claimed is not collected.

A claim is kept in three places, each for what the others cannot do. The modification time of a file survives a restart
and is what the grace time is measured by. A collection that is under way has a set on disk, so that neither a jump of
the clock nor a short grace lets it delete what was claimed since it began. An object store gives no way to renew a
modification time, so there the last claims are remembered in memory.
"""

import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from deltaic.runtime.threads import in_thread
from deltaic.store.digest_set import DigestSet
from deltaic.store.errors import CollectionBusy
from deltaic.store.gate import Gate

_log = structlog.get_logger(__name__)

REMEMBERED = 200_000
"""Claims kept in memory, about 150 bytes each; beyond it the oldest are forgotten."""


class Claims:
    """Of one store. `gate` is shared by whoever claims or writes, and alone for whoever deletes."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.gate = Gate()
        self._remembered = remembered
        self._recent: OrderedDict[bytes, float] = OrderedDict()
        self._collecting: DigestSet | None = None

    @asynccontextmanager
    async def kept_from(self, collecting: DigestSet) -> AsyncIterator[None]:
        """Until the block ends, add every claim to `collecting` too: that is what is not deleted.

        Begins when no claim is half made. Raises CollectionBusy.
        """
        async with self.gate.alone():
            if self._collecting is not None:
                raise CollectionBusy("a collection of this store is under way", hint="wait until it has ended")
            self._collecting = collecting
        try:
            yield
        finally:
            self._collecting = None

    async def add(self, hashes: Sequence[bytes], files: Sequence[Path] | None) -> set[bytes]:
        """Claim blobs that were found; the hashes of those whose file has gone meanwhile. Inside the shared gate.

        `files` are theirs, in the same order; None means that the store has no files. Raises OSError.
        """
        gone: set[bytes] = set()
        if files is None:
            self._remember(hashes)
        else:
            gone, untouched = await in_thread(_touch, hashes, files)
            self._remember(untouched)
        if self._collecting is not None:
            await in_thread(self._collecting.add, hashes)
        return gone

    def last(self, sha256: bytes) -> float:
        """When a blob was claimed last, as far as memory tells, in seconds since 1970."""
        return self._recent.get(sha256, 0.0)

    async def unclaimed(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Those that the collection under way may delete. Inside the gate, alone."""
        if self._collecting is None:
            raise CollectionBusy("no collection is under way", hint="delete only within one")
        return await in_thread(self._collecting.absent, hashes)

    def _remember(self, hashes: Iterable[bytes]) -> None:
        now = time.time()
        for each in hashes:
            self._recent[each] = now
            self._recent.move_to_end(each)
        while len(self._recent) > self._remembered:
            self._recent.popitem(last=False)


def _touch(hashes: Sequence[bytes], files: Sequence[Path]) -> tuple[set[bytes], list[bytes]]:
    """Renew modification times: the hashes of files that are gone, and of those that only their owner may touch."""
    gone: set[bytes] = set()
    untouched: list[bytes] = []
    for sha256, file in zip(hashes, files, strict=True):
        try:
            os.utime(file)
        except FileNotFoundError:
            gone.add(sha256)
        except PermissionError:
            untouched.append(sha256)
    if untouched:
        _log.warning("claims.not_renewed", blobs=len(untouched), why="they belong to another user")
    return gone, untouched
