"""The folder that one node owns: locked while it runs, with a short path beside it for sockets."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deltaic.errors import FailedPrecondition

_SOCKET_ROOM = 60
"""A Unix socket's path has at most 107 bytes; workers and the index add up to 45 to the folder's."""


class DataFolderUnusable(FailedPrecondition):
    """Another process has the folder, or it cannot be written."""

    reason = "DATA_FOLDER_UNUSABLE"


@contextmanager
def own_data_folder(folder: Path, role: str) -> Iterator[Path]:
    """Create `folder` and lock it until the context ends; the kernel drops the lock of a process that dies.

    Raises DataFolderUnusable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "choose a folder that this user can write with --data-dir"
        raise DataFolderUnusable(f"cannot use the data folder {folder}: {error.strerror}", hint=hint) from None
    try:
        _lock(descriptor, folder, role)
        yield folder
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, role: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "another process"
        raise DataFolderUnusable(
            f"{owner} works in {folder}", hint="stop it, or give this one a folder of its own with --data-dir"
        ) from None
    # Who works here is only a courtesy to the next one: a node whose disk is full must still start and serve.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{role} (process {os.getpid()})\n".encode(), 0)


def runtime_folder(folder: Path) -> Path:
    """Where the sockets of the node that owns `folder` live: the same place at every start, emptied of stale ones.

    It is `folder/run` where that is short enough for a socket, else a private folder below the system's temporary one.
    Raises DataFolderUnusable.
    """
    resolved = folder.resolve()
    run = resolved / "run"
    if len(os.fsencode(run)) > _SOCKET_ROOM:
        name = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
        run = Path(tempfile.gettempdir()) / f"deltaic-{os.getuid()}-{name}"
    try:
        run.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        hint = "remove what is there, or make room"
        raise DataFolderUnusable(f"cannot make {run} for sockets: {error.strerror}", hint=hint) from None
    # Its name below the temporary folder can be guessed, so a link that somebody left there is not followed.
    facts = run.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise DataFolderUnusable(
            f"{run} is a link or belongs to another user", hint="remove it, or set TMPDIR to a private folder"
        )
    for stale in run.glob("*.sock"):
        stale.unlink()
    return run
