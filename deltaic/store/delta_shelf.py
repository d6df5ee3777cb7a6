"""Deltas of a node, inside a byte budget: which pair of revisions each is for, and its blobs, read by digest.

    <folder>/pairs/<source>-<target>.json    one delta: the digests of its index and packs; both names are revisions
    <folder>/chunks/ab/abcdef…               an index or a pack, as in a chunk store
    <folder>/making/                         what is being written; emptied when the shelf is opened

Blobs are durable before the record names them, and a record goes before its blobs do: a crash leaves blobs that no
record names, which the next opening removes. Everything here can be made again, so nothing here is precious.
"""

import asyncio
import os
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from obstore.store import LocalStore

from deltaic.store.chunk_store import ObjectChunkStore, key_of
from deltaic.store.delta_records import DeltaRecord, Pair, read_records, record_path, remove_strangers
from deltaic.store.disk import disk_errors, make_folder, sync_folder, write_whole
from deltaic.store.errors import ChunkDamaged, ChunkNotFound, NoRoomForDelta
from deltaic.store.reading import check_range
from deltaic.weights.digest import Digest

_log = structlog.get_logger(__name__)

_REMEMBERED_REFUSALS = 1_000
_TOUCH_SECONDS = 60.0


class DeltaShelf:
    """A ChunkReader of deltas. Lives on the event loop; disk work happens in threads."""

    def __init__(
        self, folder: Path, budget_bytes: int, *, grace: float = 120.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create or open. Blocks: removes what a crash left, and what is over the budget.

        A delta that was asked for in the last `grace` seconds is in use: somebody fetches it. Raises DiskFull,
        DiskFailed.
        """
        self.folder = folder.absolute()
        self.making = self.folder / "making"
        self.budget_bytes = budget_bytes
        self._grace = grace
        self._clock = clock
        self._store = ObjectChunkStore(LocalStore(self.folder, mkdir=True))
        self._changing = asyncio.Lock()
        self._leases: Counter[Pair] = Counter()
        self._used: dict[Pair, float] = {}
        self._spoilt: set[Pair] = set()
        self._refused: OrderedDict[Pair, None] = OrderedDict()
        for name in ("pairs", "chunks"):
            make_folder(self.folder / name)
        with disk_errors(self.folder, lambda: 0):
            shutil.rmtree(self.making, ignore_errors=True)
            self.making.mkdir()
            records = read_records(self.folder)
            self._records: OrderedDict[Pair, DeltaRecord] = OrderedDict((each.pair, each) for each in records)
            self._owners: dict[Digest, set[Pair]] = {}
            for record in records:
                self._own(record)
            while self.size > budget_bytes:
                oldest = next(iter(self._records))
                self._delete(self._forget(oldest), oldest)
            remove_strangers(self.folder, {digest.hex for digest in self._owners})

    @property
    def size(self) -> int:
        """Bytes of all blobs here, each once."""
        return sum(digest.size for digest in self._owners)

    def deltas(self) -> list[DeltaRecord]:
        """What can be had here, the one used longest ago first."""
        return [record for pair, record in self._records.items() if pair not in self._spoilt]

    def find(self, pair: Pair) -> DeltaRecord | None:
        """The delta of a pair; None when there is none, or a damaged one."""
        return None if pair in self._spoilt else self._records.get(pair)

    def use(self, pair: Pair) -> None:
        """Somebody is about to fetch it: it stays for the time of grace, and goes last."""
        if pair in self._records:
            self._used[pair] = self._clock()
            self._records.move_to_end(pair)

    @contextmanager
    def leased(self, pair: Pair) -> Iterator[None]:
        """Keep the delta of a pair from making room for others."""
        self._leases[pair] += 1
        try:
            yield
        finally:
            self._leases[pair] -= 1

    def refuse(self, pair: Pair) -> None:
        """Remember, until the node stops, that a delta of this pair is not worth making."""
        self._refused[pair] = None
        while len(self._refused) > _REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)

    def refused(self, pair: Pair) -> bool:
        return pair in self._refused

    async def add(self, record: DeltaRecord, made: Path) -> None:
        """Take over the blobs of a delta, files in `made` (a folder below `making`) that are named by their hex.

        Others make room, those used longest ago first. Raises NoRoomForDelta, DiskFull, DiskFailed, DataLoss; then
        the delta is not here.
        """
        async with self._changing:
            with self.leased(record.pair):
                await self._make_room(record)
                with disk_errors(self.folder, lambda: record.size):
                    await asyncio.to_thread(_move_in, self.folder, record, made)
                for digest in record.blobs:
                    await self._store.read(digest)  # hashed once more, and trusted again where it was damaged
                await self._store.make_durable(record.blobs)
                with disk_errors(self.folder, lambda: record.size):
                    await asyncio.to_thread(write_whole, record_path(self.folder, record.pair), record.serialise())
                await self._replace(record)

    async def has(self, digest: Digest) -> bool:
        """See ChunkReader."""
        return digest in self._owners and await self._store.has(digest)

    async def read(self, digest: Digest, offset: int = 0, limit: int | None = None) -> bytes:
        """See ChunkReader. A delta with a damaged blob is not offered any more, until it is made again."""
        check_range(digest, offset, limit)
        owners = frozenset(self._owners.get(digest, ()))
        if not owners:
            raise ChunkNotFound(f"no blob {digest} in {self.folder}", hint="ask for a new plan, or fetch chunks")
        for pair in owners:
            await self._read_of(pair)
        try:
            return await self._store.read(digest, offset, limit)
        except (ChunkDamaged, ChunkNotFound):
            _log.warning("delta.damaged", blob=str(digest), deltas=[str(pair) for pair in owners])
            for pair in owners & self._records.keys():
                self._spoilt.add(pair)
                await asyncio.to_thread(record_path(self.folder, pair).unlink, missing_ok=True)
            raise

    async def _read_of(self, pair: Pair) -> None:
        """Its place in the order survives a restart, to the minute."""
        now, before = self._clock(), self._used.get(pair, float("-inf"))
        self.use(pair)
        if now - before > _TOUCH_SECONDS:
            with suppress(OSError):
                await asyncio.to_thread(os.utime, record_path(self.folder, pair))

    async def _replace(self, record: DeltaRecord) -> None:
        """From here on it is offered; what an earlier delta of the same pair had and this one has not goes."""
        old = self._records.pop(record.pair, None)
        self._records[record.pair] = record
        self._spoilt.discard(record.pair)
        self._own(record)
        if old is not None:
            await asyncio.to_thread(self._delete, self._disown(old, keep=frozenset(record.blobs)))

    def _own(self, record: DeltaRecord) -> None:
        for digest in record.blobs:
            self._owners.setdefault(digest, set()).add(record.pair)

    def _disown(self, record: DeltaRecord, keep: frozenset[Digest] = frozenset()) -> list[Digest]:
        """The blobs that nobody needs any more."""
        unneeded = []
        for digest in set(record.blobs) - keep:
            owners = self._owners[digest]
            owners.discard(record.pair)
            if not owners:
                del self._owners[digest]
                unneeded.append(digest)
        return unneeded

    def _in_use(self, pair: Pair) -> bool:
        return self._leases[pair] > 0 or self._clock() - self._used.get(pair, float("-inf")) < self._grace

    async def _make_room(self, record: DeltaRecord) -> None:
        def excess() -> int:
            more = sum(digest.size for digest in set(record.blobs) - self._owners.keys())
            return self.size + more - self.budget_bytes

        idle = [pair for pair in self._records if not self._in_use(pair)]
        idle.sort(key=lambda pair: pair not in self._spoilt)
        freeable = sum(digest.size for digest, owners in self._owners.items() if owners <= set(idle))
        if excess() > freeable:
            raise NoRoomForDelta(
                f"a delta of {record.size:,} bytes does not fit into the {self.budget_bytes:,} bytes for deltas",
                hint="raise deltas_bytes",
            )
        for pair in idle:
            if excess() <= 0:
                return
            await asyncio.to_thread(self._delete, self._forget(pair), pair)

    def _forget(self, pair: Pair) -> list[Digest]:
        record = self._records.pop(pair)
        self._used.pop(pair, None)
        self._spoilt.discard(pair)
        _log.info("delta.removed", pair=str(pair), bytes=record.size)
        return self._disown(record)

    def _delete(self, blobs: list[Digest], pair: Pair | None = None) -> None:
        """The record first: it must never name blobs that are gone."""
        with disk_errors(self.folder, lambda: 0):
            if pair is not None:
                record_path(self.folder, pair).unlink(missing_ok=True)
                sync_folder(self.folder / "pairs")
            for digest in blobs:
                (self.folder / key_of(digest)).unlink(missing_ok=True)


def _move_in(folder: Path, record: DeltaRecord, made: Path) -> None:
    for digest in record.blobs:
        place = folder / key_of(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        (made / digest.hex).replace(place)
