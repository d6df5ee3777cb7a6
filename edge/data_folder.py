"""The folder that one edge owns: locked while it runs, with a short path beside it for sockets."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import DataFolderInUse

_SOCKET_ROOM = 60
"""A Unix socket's path has at most 107 bytes; workers and the index add up to 45 to the folder's."""


@contextmanager
def own_data_folder(folder: Path) -> Iterator[Path]:
    """Create `folder` and lock it until the context ends; the kernel drops the lock of a process that dies.

    Raises DataFolderInUse when another process has it, or when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "edge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "choose a folder that this user can write with --data-dir"
        raise DataFolderInUse(f"cannot use the data folder {folder}: {error.strerror}", hint=hint) from None
    try:
        _lock(descriptor, folder)
        yield folder
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise DataFolderInUse(
            f"another edge (process {owner}) works in {folder}",
            hint="stop it, or give this one a folder of its own with --data-dir",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def runtime_folder(folder: Path) -> Path:
    """Where the sockets of the edge that owns `folder` live: the same place at every start, emptied of stale ones.

    It is `folder/run` where that is short enough for a socket, else a private folder below the system's temporary one.
    """
    resolved = folder.resolve()
    run = resolved / "run"
    if len(os.fsencode(run)) > _SOCKET_ROOM:
        name = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
        run = Path(tempfile.gettempdir()) / f"deltaic-{os.getuid()}-{name}"
    run.mkdir(mode=0o700, exist_ok=True)
    if run.stat().st_uid != os.getuid():
        raise DataFolderInUse(f"{run} belongs to another user", hint="remove it, or set TMPDIR to a private folder")
    for stale in run.glob("*.sock"):
        stale.unlink()
    return run
