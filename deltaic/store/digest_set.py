"""A set of digests of any size in a bounded amount of memory: a private database on the disk.

Collection asks of a million chunks whether a manifest names them. In memory a set of them takes 100 MB; here it takes
what SQLite may cache, and about 45 bytes of disk for each.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from deltaic.store.disk import disk_full
from deltaic.store.errors import DiskFailed

_FILE = "digests.tmp"


class DigestSet:
    """SHA-256 hashes (32 bytes each). Blocks; safe for many threads. What it holds is gone when it is closed."""

    def __init__(self, folder: Path, cache_bytes: int = 16 << 20) -> None:
        """One set at a time in a folder; what a crash left of another one is removed. Raises DiskFull, DiskFailed."""
        self._path = folder / _FILE
        self._lock = threading.Lock()
        self._count = 0
        self._closed = False
        with self._errors():
            self._path.unlink(missing_ok=True)
            # Never committed and never synced: nobody reads it after this process.
            self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            for statement in (
                "PRAGMA journal_mode=OFF",
                "PRAGMA synchronous=OFF",
                f"PRAGMA cache_size=-{max(1, cache_bytes >> 10)}",
                "CREATE TABLE held (sha256 BLOB PRIMARY KEY) WITHOUT ROWID",
                "BEGIN",
            ):
                self._database.execute(statement)

    def add(self, hashes: Iterable[bytes]) -> None:
        """Nothing happens once the set is closed. Raises DiskFull, DiskFailed."""
        with self._errors(), self._lock:
            if self._closed:
                return
            rows = ((each,) for each in sorted(set(hashes)))  # in order, since neighbours share pages
            cursor = self._database.executemany("INSERT OR IGNORE INTO held VALUES (?)", rows)
            self._count += max(0, cursor.rowcount)

    def absent(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Those of `hashes` that were never added. Raises DiskFailed."""
        query = "SELECT 1 FROM held WHERE sha256 = ?"
        with self._errors(), self._lock:
            return {each for each in hashes if self._database.execute(query, (each,)).fetchone() is None}

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Closing twice is nothing."""
        with self._lock:
            self._closed = True
            self._database.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            folder = self._path.parent
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise disk_full(folder, 0) from error
            hint = "check the disk and who owns the folder"
            raise DiskFailed(f"cannot write in {folder}: {error}", hint=hint, folder=str(folder)) from error
