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
from contextlib import contextmanager, suppress
from pathlib import Path

from deltaic.store.disk import read_into, read_up_to, write_all
from deltaic.store.errors import StagingClosed
from deltaic.weights.digest import Buffer, Digest
from deltaic.weights.manifest import Chunk

WRITE_BACK_BYTES = 16 << 20
"""After so many bytes the disk is told to begin, so that it works beside the line and little is left for `sync`."""


class PartFile:
    """A sparse file of a fixed size, read and written at any place by any thread.

    The descriptor is closed only when no thread uses it: the number of a closed one may already name another file.

    Others must not write to the file. Whether somebody did is told by its change time: it is looked at after each of
    our writes and compared before the next, which takes a file system that stamps every change anew.
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
        self._writing = threading.Lock()
        self._touched = False
        self._to_write_back = 0
        self._flusher: threading.Thread | None = None
        self._failure: OSError | None = None
        try:
            self.restore_size()
            self.tells_changes = _stamps_each_change(self._descriptor)
            self._stamp = _stamp(self._descriptor)
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

    def read_into(self, buffer: memoryview, offset: int) -> memoryview:
        """Fill the buffer; what was filled, less only where the file ends. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor:
            return read_into(descriptor, buffer, offset)

    def write(self, data: Buffer, offset: int) -> None:
        """Raises OSError, StagingClosed."""
        self.write_pieces([data], offset)

    def write_pieces(self, pieces: Iterable[Buffer], offset: int) -> None:
        """Write them one after the other. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor, self._writing:
            self._raise_failure()
            self._touched = self._touched or _stamp(descriptor) != self._stamp
            for piece in pieces:
                write_all(descriptor, piece, offset)
                offset += len(piece)
                self._to_write_back += len(piece)
            self._stamp = _stamp(descriptor)
            if self._to_write_back >= WRITE_BACK_BYTES and not (self._flusher and self._flusher.is_alive()):
                self._to_write_back = 0
                self._flusher = threading.Thread(target=self._write_back, name=f"write-back {self.path.name[:12]}")
                self._flusher.start()

    def sync(self) -> None:
        """Flush the bytes to the disk. Raises OSError, also one of an earlier write-back; StagingClosed."""
        with self._in_use() as descriptor:
            if self._flusher is not None:
                self._flusher.join()  # the kernel tells of a failure once: it may be the flusher that was told
            with self._writing:
                self._raise_failure()
            try:
                os.fsync(descriptor)
            except OSError:
                self._distrust_cache(descriptor)
                raise

    def watch(self) -> None:
        """From here on `touched` tells whether somebody else writes to the file. Raises OSError, StagingClosed."""
        with self._in_use() as descriptor, self._writing:
            self._touched, self._stamp = False, _stamp(descriptor)

    def touched(self) -> bool:
        """Whether somebody else may have changed the file since `watch`: its bytes, its size, its names.

        Always true where the file system cannot tell. Raises OSError, StagingClosed.
        """
        with self._in_use() as descriptor, self._writing:
            self._touched = self._touched or _stamp(descriptor) != self._stamp
            return self._touched or not self.tells_changes

    def _write_back(self) -> None:
        """In a thread of its own; an error is kept for whoever writes or syncs next."""
        with suppress(StagingClosed), self._in_use() as descriptor:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._distrust_cache(descriptor)
                with self._writing:
                    self._failure = error

    def _distrust_cache(self, descriptor: int) -> None:
        """After a failed flush the kernel takes its copy for what is on the disk. Read from there, and hash again."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with self._writing:
            self._touched = True

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise OSError(failure.errno, failure.strerror) from failure

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


def _stamp(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_ctime_ns, facts.st_size


def _stamps_each_change(descriptor: int) -> bool:
    """Whether changes that follow one another at once can be told apart; older kernels stamp by the clock's tick."""
    stamps = set()
    for _ in range(4):
        os.utime(descriptor)
        stamps.add(_stamp(descriptor))
    return len(stamps) == 4


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
