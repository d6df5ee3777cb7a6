"""A growing model file, which is its own journal: what its bytes hash to is what has been fetched.

Nothing else is written down while a file grows, so nothing can disagree with it. Opening one again hashes the parts
that were ever written; the file system knows the parts that were not (SEEK_DATA, SEEK_HOLE).
"""

import errno
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deltaic.store.disk import read_up_to, write_all
from deltaic.store.errors import StagingClosed
from deltaic.weights.digest import Buffer, Digest
from deltaic.weights.manifest import Chunk


class PartFile:
    """A sparse file of a fixed size, read and written at any place by any thread.

    The descriptor is closed only when no thread uses it: the number of a closed one may already name another file.
    """

    _closed = True

    def __init__(self, path: Path, size: int) -> None:
        """Open or create. A file of another size is cut or grown. Raises OSError."""
        self.path = path
        self.size = size
        self._descriptor = _open(path)
        self._idle = threading.Condition()
        self._users = 0
        self._closed = False
        try:
            self.restore_size()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _in_use(self) -> Iterator[int]:
        with self._idle:
            if self._closed:
                raise StagingClosed(f"{self.path.name} is closed", hint="stage the revision again")
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            return read_up_to(descriptor, offset, size)

    def write(self, data: Buffer, offset: int) -> None:
        """Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            write_all(descriptor, data, offset)

    def sync(self) -> None:
        """Flush the bytes to the disk. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            os.fsync(descriptor)

    def restore_size(self) -> None:
        """Undo whatever somebody else did to the size. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            if os.fstat(descriptor).st_size != self.size:
                os.ftruncate(descriptor, self.size)

    def is_named(self) -> bool:
        """Whether the path still names this very file. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            ours = os.fstat(descriptor)
            try:
                named = self.path.lstat()
            except FileNotFoundError:
                return False
            return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)

    def unallocated_bytes(self) -> int:
        """Bytes that the file may still take from the disk. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            return max(0, self.size - os.fstat(descriptor).st_blocks * 512)

    def verified(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Those of the chunks, given in file order, whose bytes are in the file. Raises OSError, StagingClosed.

        A chunk that lies in a hole was never written; it counts only when it is meant to be all zeros.
        """
        with self._in_use() as descriptor:
            extents = data_extents(descriptor, self.size)
            starts = [start for start, _ in extents]
            zeros = _Zeros()
            for chunk in chunks:
                last = bisect_right(starts, chunk.end - 1) - 1
                if last >= 0 and extents[last][1] > chunk.offset:
                    if chunk.digest.matches(read_up_to(descriptor, chunk.offset, chunk.digest.size)):
                        yield chunk
                elif zeros.are(chunk.digest):
                    yield chunk

    def close(self) -> None:
        """Refuse new users, wait for the present ones, close. Closing twice is nothing."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._users == 0)
        os.close(self._descriptor)

    def __del__(self) -> None:
        # A thread in the middle of a call holds a reference, so whoever drops the last one is alone.
        if not self._closed:
            self.close()


class _Zeros:
    """Digests of runs of zero bytes, remembered by length: a model has few lengths of chunks."""

    def __init__(self) -> None:
        self._known: dict[int, Digest] = {}

    def are(self, digest: Digest) -> bool:
        if digest.size not in self._known:
            self._known[digest.size] = Digest.of(bytes(digest.size))
        return self._known[digest.size] == digest


def data_extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """The (start, end) of what was ever written, rising; the whole file where the file system cannot tell."""
    extents: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole from here to the end
                break
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
                return [(0, size)]
            raise
        extents.append((start, end))
    return extents


def _open(path: Path) -> int:
    """Open without following a link: what is not a plain file of this name only (a link, a pipe) is replaced."""
    try:
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode) and (not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1):
            path.unlink()
    except FileNotFoundError:
        pass
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
