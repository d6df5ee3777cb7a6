"""The process that makes one delta: two files in, an index and packs into a folder, each file named by its hex.

    python -m deltaic.transfer.deltas.encoder SOURCE TARGET FOLDER JOBS MOST_BYTES

It prints the index's hex and ends with 0. It ends with 3 when the delta would have more than MOST_BYTES, with 1 and a
line on standard error when it cannot be made. When its standard input ends, its parent is gone, and it and its children
go too.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from deltaic.errors import DeltaicError
from deltaic.runtime.slices import compute_at_length
from deltaic.weights.delta.encode import encode
from deltaic.weights.digest import Digest

NICENESS = 5
"""Answers go first, but where they never rest a delta must still come before its nodes give up waiting."""
TOO_LARGE = 3


class _TooLarge(Exception):
    """The delta does not pay."""


def main(arguments: list[str]) -> int:
    """See the module."""
    source, target, folder = (Path(argument) for argument in arguments[:3])
    jobs, most_bytes = (int(argument) for argument in arguments[3:])
    os.nice(NICENESS)
    compute_at_length()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        index = encode(source, target, _Keeper(folder, most_bytes).keep, jobs=jobs)
    except _TooLarge:
        return TOO_LARGE
    except (DeltaicError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    if index.size > most_bytes:
        return TOO_LARGE
    (folder / index.digest.hex).write_bytes(index.data)
    sys.stdout.write(index.digest.hex + "\n")
    return 0


class _Keeper:
    """Writes packs until they are more than they may be."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._left = most_bytes

    def keep(self, digest: Digest, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise _TooLarge
        (self._folder / digest.hex).write_bytes(data)


def _end_with_parent() -> None:
    # Read from the descriptor: a thread that waits in sys.stdin holds a lock that the end of the process wants.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
