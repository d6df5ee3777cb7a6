"""What a disk must do before Deltaic believes it: whole files, durable folders, and errors that say what to do."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deltaic.errors import DeltaicError
from deltaic.store.errors import DiskFailed, DiskFull
from deltaic.weights.digest import Buffer

# EFBIG is a file system (or a process limit) that cannot hold a file of this size: for the caller it is as full.
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_full(folder: Path | str, needed: int) -> DiskFull:
    """The error for a folder that has no room for `needed` more bytes."""
    return DiskFull(
        f"no room in {folder}: {needed:,} more bytes are needed",
        hint="free space there and try again; what is already verified is kept",
        folder=str(folder),
        needed_bytes=str(needed),
    )


@contextmanager
def disk_errors(folder: Path, needed: Callable[[], int]) -> Iterator[None]:
    """Turn an OSError of writing into DiskFull or DiskFailed. `needed` tells the bytes still to be written."""
    try:
        yield
    except DeltaicError:  # some of ours are OSErrors too, and say more
        raise
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise disk_full(folder, needed()) from error
        what = error.strerror or str(error)
        raise DiskFailed(
            f"cannot write in {folder}: {what}", hint="check the disk and who owns the folder", folder=str(folder)
        ) from error


def free_bytes(folder: Path) -> int:
    """Bytes that this process may still write in the folder's file system."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def sync_file(path: Path) -> int:
    """Flush one file to the disk; its size in bytes. The name itself is durable only after `sync_folder`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the names in one folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and what is above it, durably. Raises DiskFull, DiskFailed."""
    with disk_errors(folder, lambda: 0):
        created = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in created:
            sync_folder(each.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Make a small file appear whole and durable, or not at all: temporary name, fsync, rename, fsync of the folder.

    Two writers of one path must hold its lock: there is one temporary name. Raises OSError; then nothing new is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            write_all(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at `offset`, however often the kernel takes only part. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset += written
        rest = rest[written:]


def read_up_to(descriptor: int, offset: int, size: int) -> bytes:
    """The `size` bytes at `offset`, or fewer when the file ends before. Raises OSError."""
    data = os.pread(descriptor, size, offset)
    if len(data) in (0, size):
        return data
    parts = [data]
    got = len(data)
    while got < size and (more := os.pread(descriptor, size - got, offset + got)):
        parts.append(more)
        got += len(more)
    return b"".join(parts)


def read_into(descriptor: int, buffer: memoryview, offset: int) -> memoryview:
    """Fill the buffer from `offset`; what was filled, less only where the file ends before. Raises OSError."""
    got = 0
    while got < len(buffer) and (more := os.preadv(descriptor, [buffer[got:]], offset + got)):
        got += more
    return buffer[:got]
