"""Entries on the disk until the center has them.

    DATA_DIR/spool/
    ├── 00000000000000000001.log    a segment, named for the sequence of its first entry (segment.py)
    └── delivered                   the newest sequence that the center has; losing it costs a delivery of known entries

An entry is durable when `append` returns. Sequences have no gaps: one is given only to an entry that is written. When
the budget is full, new entries are counted instead of kept, so that what was known first is not pushed out, and the
spool itself says that and how many; the same when the disk fails. Delivered segments are removed whole.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import structlog

from deltaic.store.disk import make_folder, sync_file, sync_folder, write_all, write_whole
from deltaic.v1 import audit_pb2
from edge.spool import segment
from edge.spool.segment import HEADER_BYTES, MAGIC, entries_in, first_of, name_in, path_of, record_of, segments_in

_log = structlog.get_logger(__name__)

SPOOL_FULL = "EDGE_SPOOL_FULL"
ENTRIES_LOST = "EDGE_ENTRIES_LOST"
BATCH_ENTRIES = 500
BATCH_BYTES = 1 << 20
_SHARES = 16
_LEAST_SEGMENT = 64 << 10
_DELIVERED = "delivered"
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Draft:
    """A decision that has no number yet. `time_us` is in microseconds since 1970 UTC."""

    action: str
    resource: str
    details: Mapping[str, str] = field(default_factory=dict)
    time_us: int = field(default_factory=lambda: time.time_ns() // 1_000)


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries without a gap, and the oldest that there is."""

    entries: tuple[audit_pb2.SpooledEntry, ...]
    oldest: int


class Spool:
    """Blocks: call it from threads; any number may. One process has the folder."""

    def __init__(self, folder: Path, budget_bytes: int, *, fsync: Callable[[int], None] = os.fdatasync) -> None:
        """Open or create; cut off what a killed process left half written. Raises DiskFull, DiskFailed."""
        self._folder = folder
        self.budget_bytes = budget_bytes
        self._segment_bytes = max(_LEAST_SEGMENT, budget_bytes // _SHARES)
        self._fsync = fsync
        self._lock = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._descriptor: int | None = None
        self.lost = 0
        """Entries that could not be kept, since this was opened."""
        self._unsaid = 0
        make_folder(folder)
        self.delivered = self._read_delivered()
        self.name = uuid.uuid4()
        self.last = self._recover()

    @property
    def entries(self) -> int:
        """How many wait, those that rotted included."""
        return max(0, self.last - self.delivered)

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.copy().values())

    def append(self, drafts: Sequence[Draft]) -> None:
        """Write these, durable when it returns; what cannot be kept is counted and said later. Never raises."""
        with self._lock:
            if self._unsaid and self._has_room(drafts[:1]):
                said = Draft(ENTRIES_LOST, "spool", {"count": str(self._unsaid)})
                if self._write([said]):
                    self._unsaid = 0
            if self._has_room(drafts):
                if not self._write(drafts):
                    self._lose(len(drafts))
                return
            if not self._unsaid:
                # The one entry that may go beyond the budget: a reader must learn that others are missing.
                self._write([Draft(SPOOL_FULL, "spool", {"budget_bytes": str(self.budget_bytes)})])
                _log.warning("spool.full", budget_bytes=self.budget_bytes, effect="entries are counted, not kept")
            self._lose(len(drafts))

    def read(self) -> Batch | None:
        """The oldest entries that the center has not, at most BATCH_ENTRIES; None when it has all."""
        with self._lock:
            sizes, after = self._sizes.copy(), self.delivered
        paths = list(sizes)
        found: list[audit_pb2.SpooledEntry] = []
        size = 0
        for index, path in enumerate(paths):
            if index + 1 < len(paths) and first_of(paths[index + 1]) <= after + 1:
                continue
            # Only what is flushed: what the center has must not be lost here, or its number would be given twice.
            for each in entries_in(_read(path)[: sizes[path]]):
                if each.entry.sequence <= after:
                    continue
                size += each.entry.ByteSize()
                gap = found and each.entry.sequence != found[-1].sequence + 1
                if gap or len(found) == BATCH_ENTRIES or size > BATCH_BYTES:
                    return Batch(tuple(found), found[0].sequence)
                found.append(each.entry)
        return Batch(tuple(found), found[0].sequence) if found else None

    def forget(self, sequence: int) -> None:
        """The center has all up to here. Raises nothing: what stays is delivered again, and dropped there."""
        with self._lock:
            self.delivered = max(self.delivered, sequence)
            self.last = max(self.last, sequence)
            try:
                write_whole(self._folder / _DELIVERED, b"%d\n" % self.delivered)
                paths = list(self._sizes)
                for path, following in pairwise(paths):
                    if first_of(following) <= self.delivered + 1:
                        path.unlink(missing_ok=True)
                        del self._sizes[path]
            except OSError as error:
                _log.warning("spool.not_shortened", error=str(error))

    def close(self) -> None:
        """Let go of the open segment."""
        with self._lock:
            self._leave_segment()

    def _has_room(self, drafts: Sequence[Draft]) -> bool:
        coming = sum(len(record_of(_entry(draft, 1))) + 16 for draft in drafts)
        return self.bytes + coming + HEADER_BYTES <= self.budget_bytes

    def _lose(self, count: int) -> None:
        self.lost += count
        self._unsaid += count

    def _write(self, drafts: Sequence[Draft]) -> bool:
        """Whether they are durable; if not, nothing of them is left."""
        entries = [_entry(draft, self.last + 1 + index) for index, draft in enumerate(drafts)]
        data = b"".join(map(record_of, entries))
        try:
            path = self._open_segment()
            before = self._sizes[path]
            assert self._descriptor is not None, "it was opened"
            try:
                write_all(self._descriptor, data, before)
                self._fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, before)
                raise
        except OSError as error:
            # What a failed flush left of the file is not known: begin another one.
            self._leave_segment()
            _log.error("spool.not_written", error=str(error), effect="none for requests; entries are counted")
            return False
        self._sizes[path] = before + len(data)
        self.last += len(entries)
        return True

    def _open_segment(self) -> Path:
        """The segment that takes the next entry. Raises OSError."""
        newest = next(reversed(self._sizes), None)
        if newest is not None and self._descriptor is not None and self._sizes[newest] < self._segment_bytes:
            return newest
        self._leave_segment()
        path = path_of(self._folder, self.last + 1)
        if path in self._sizes:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            return path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, MAGIC + self.name.bytes, 0)
            self._fsync(descriptor)
            sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self._descriptor = descriptor
        self._sizes[path] = HEADER_BYTES
        return path

    def _leave_segment(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _recover(self) -> int:
        """Read what is there; the newest sequence that was given."""
        last = self.delivered
        for path in segments_in(self._folder):
            data = _read(path)
            name = name_in(data)
            found = list(entries_in(data))
            if name is None and not found:
                path.unlink(missing_ok=True)  # a process died while it made it
                continue
            if name is not None:
                self.name = uuid.UUID(bytes=name)
            end = found[-1].end if found else HEADER_BYTES
            if end < len(data):
                os.truncate(path, end)
                _log.warning("spool.cut", path=str(path), bytes=len(data) - end)
            sync_file(path)
            self._sizes[path] = end
            last = max(last, first_of(path) - 1, found[-1].entry.sequence if found else 0)
        return last

    def _read_delivered(self) -> int:
        try:
            return max(0, int((self._folder / _DELIVERED).read_bytes()))
        except (OSError, ValueError):
            return 0


def _entry(draft: Draft, sequence: int) -> audit_pb2.SpooledEntry:
    entry = audit_pb2.SpooledEntry(
        sequence=sequence,
        action=draft.action,
        resource=draft.resource[:_LONGEST],
        details={key[:_LONGEST]: value[:_LONGEST] for key, value in list(draft.details.items())[:10]},
    )
    entry.time.FromMicroseconds(draft.time_us)
    assert entry.ByteSize() <= segment.MAX_PAYLOAD, "at most ten details of bounded length"
    return entry


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if path.exists():
            _log.error("spool.unreadable", path=str(path), error=str(error))
        return b""
