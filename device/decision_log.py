"""What this device decided about its requests: a chained log in one file, one JSON object a line, fsynced line by line.

    {"sequence":1,"time_us":...,"actor":"...","action":"EGRESS_KEPT","resource":"models/...","details":{...},
     "previous_hash":"00...","hash":"..."}

The links are those of `deltaic.trust.audit`. An entry holds what an auditor asks about (who, when, which model, why,
which kinds of values, how many bytes) and never the content. It is written before what it records takes effect; a log
that cannot be written is an error to the caller, who then sends nothing. A line that a crash cut short recorded nothing
that took effect, so it is removed.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from deltaic.trust.audit import FIRST_PREVIOUS_HASH, AuditEntry, link, verify
from deltaic.trust.errors import ChainBroken
from device.errors import DecisionLogFailed

KEPT = "EGRESS_KEPT"
SENT = "EGRESS_SENT"

_LONGEST_LINE = 65_536


class DecisionLog:
    """Appends to one file; safe to use from several tasks, not from several processes."""

    def __init__(self, path: Path, *, now_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        """`now_us` gives microseconds since 1970-01-01 UTC. The file is opened at the first entry."""
        self._path = path
        self._now_us = now_us
        self._lock = threading.Lock()
        self._file = -1
        self._size = 0
        self._head = (0, FIRST_PREVIOUS_HASH)

    async def record(self, action: str, *, actor: str, resource: str, details: Mapping[str, str]) -> None:
        """Return when the entry is durable. Raises DecisionLogFailed; then nothing was recorded."""
        await asyncio.to_thread(self._append, action, actor, resource, details)

    def close(self) -> None:
        """Close the file; a later entry opens it again."""
        with self._lock:
            self._close()

    def _append(self, action: str, actor: str, resource: str, details: Mapping[str, str]) -> None:
        with self._lock:
            try:
                if self._file < 0:
                    self._open()
                entry = link(
                    *self._head, time_us=self._now_us(), actor=actor, action=action, resource=resource, details=details
                )
                self._write(_to_line(entry))
            except (OSError, ChainBroken, ValueError) as error:
                self._close()  # what is in the file is read again before the next entry
                raise DecisionLogFailed(
                    f"the decision log {self._path} cannot be written: {error}",
                    hint="nothing leaves this device until it can; check the disk, or move a damaged log away",
                ) from error
            self._head = (entry.sequence, entry.hash)

    def _open(self) -> None:
        is_new = not self._path.exists()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if is_new:
            _sync_folder(self._path.parent)
        end = os.fstat(self._file).st_size
        tail = os.pread(self._file, _LONGEST_LINE, max(0, end - _LONGEST_LINE))
        whole = tail.rfind(b"\n") + 1
        if not whole and end > _LONGEST_LINE:
            raise ChainBroken("the end of the log is not a line of it")
        self._size = end - len(tail) + whole
        if self._size != end:
            os.ftruncate(self._file, self._size)
        last = tail[:whole].rstrip(b"\n").rpartition(b"\n")[2]
        self._head = _head_after(last)

    def _write(self, line: bytes) -> None:
        if len(line) > _LONGEST_LINE:
            raise ValueError("an entry is longer than a line may be")
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk took a part of a line only")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_decisions(path: Path) -> Iterator[AuditEntry]:
    """The entries of a log, oldest first; check them with `deltaic.trust.audit.verify`. Raises ChainBroken."""
    with path.open("rb") as file:
        for line in file:
            yield _from_line(line)


def _head_after(line: bytes) -> tuple[int, bytes]:
    if not line:
        return 0, FIRST_PREVIOUS_HASH
    entry = _from_line(line)
    verify([entry])
    return entry.sequence, entry.hash


def _to_line(entry: AuditEntry) -> bytes:
    fields = {
        "sequence": entry.sequence,
        "time_us": entry.time_us,
        "actor": entry.actor,
        "action": entry.action,
        "resource": entry.resource,
        "details": dict(entry.details),
        "previous_hash": entry.previous_hash.hex(),
        "hash": entry.hash.hex(),
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _from_line(line: bytes) -> AuditEntry:
    try:
        fields = json.loads(line)
        return AuditEntry(
            sequence=int(fields["sequence"]),
            time_us=int(fields["time_us"]),
            actor=str(fields["actor"]),
            action=str(fields["action"]),
            resource=str(fields["resource"]),
            details=MappingProxyType({str(key): str(value) for key, value in fields["details"].items()}),
            previous_hash=bytes.fromhex(fields["previous_hash"]),
            hash=bytes.fromhex(fields["hash"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ChainBroken(f"a line of the log is not an entry: {type(error).__name__}") from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
