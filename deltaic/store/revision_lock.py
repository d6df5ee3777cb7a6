"""One writer a revision, across threads and processes: an flock on `<hex>.lock`, gone when its holder dies."""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from deltaic.store.disk import disk_errors
from deltaic.store.errors import StagingBusy
from deltaic.store.places import RevisionPaths


class RevisionLock:
    """Held from construction to `release`. Raises StagingBusy, DiskFull, DiskFailed."""

    _descriptor = -1

    def __init__(self, paths: RevisionPaths) -> None:
        self._path = paths.lock
        with disk_errors(paths.folder, lambda: 0):
            self._descriptor = self._acquire(paths.hex)

    def _acquire(self, hex_: str) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last holder may have deleted the file between our open and our lock: then it locks nobody out.
                if _is_same_file(descriptor, self._path):
                    return descriptor
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise StagingBusy(
                        f"revision sha256:{hex_} is being staged, repaired or removed by somebody else",
                        hint=f"wait for it to finish; {self._path} is locked by it",
                    ) from None
                raise
            os.close(descriptor)

    def release(self) -> None:
        """Let others in. Releasing twice is nothing."""
        if self._descriptor >= 0:
            if _is_same_file(self._descriptor, self._path):
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        # A cancelled task may drop a staging that a thread has just opened for it: nobody is left to release this.
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
