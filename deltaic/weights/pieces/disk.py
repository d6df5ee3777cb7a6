"""Files of pieces on a disk: opened without surprises, locked, and appearing whole."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltaic.weights.errors import BadPieces, PiecesBusy

BLOCK_BYTES = 1 << 20


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """A descriptor to read a regular file: a pipe or a device is refused, not waited for. Raises BadPieces, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadPieces(f"{path} is not a regular file", hint="put a copy of the file there")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(descriptor: int, what: Path) -> Iterator[None]:
    """Alone with a file or folder until the block ends; the kernel lets go of it for a process that dies.

    Raises PiecesBusy.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PiecesBusy(f"somebody else works on {what}", hint="wait until it is done") from None
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def blocks(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """`length` bytes from `offset`, at most 1 MiB at a time; fewer where the file ends. Raises OSError."""
    end = offset + length
    while offset < end and (data := os.pread(descriptor, min(BLOCK_BYTES, end - offset), offset)):
        yield data
        offset += len(data)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`, however often the kernel takes only part. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset += written
        rest = rest[written:]


@contextmanager
def appearing(path: Path) -> Iterator[int]:
    """A descriptor of a file that gets its name, durably, when the block ends well, and is gone when it does not."""
    growing = growing_name(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(growing, flags, 0o644)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        growing.replace(path)
    except BaseException:
        growing.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def growing_name(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(f".{path.name}.part")


def sync_folder(folder: Path) -> None:
    """Flush the names in one folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
