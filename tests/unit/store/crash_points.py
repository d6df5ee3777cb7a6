"""Run by test_store_crash_points.py as a program of its own: kills a writer at every system call that matters.

    crash_points.py OPERATION MODEL FOLDER

For n = 1, 2, … a forked child does the operation and kills itself with SIGKILL at its n-th call; the parent then opens
what is left and checks it. For `threads` the parent kills a child with four writing threads at random moments instead.
Prints the number of crash points; an invariant that does not hold is a traceback and status 1.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from deltaic.store import part_file
from deltaic.store.model_files import ModelFiles
from deltaic.weights.manifest import Chunk, Manifest

CALLS = ("open", "pwrite", "fsync", "ftruncate", "rename", "replace", "unlink", "close")
ROUNDS_OF_THREADS = 12


class Victim:
    """What the child does, and what must be true of whatever it leaves."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.manifest = Manifest.build(model)
        self.content = model.read_bytes()
        self.hex = self.manifest.digest.hex
        self.folder = folder

    def piece(self, chunk: Chunk) -> bytes:
        return self.content[chunk.offset : chunk.end]

    def complete(self) -> None:
        self.commit(lambda _: None)

    def commit(self, written: Callable[[Chunk], None]) -> None:
        with ModelFiles(self.folder).stage(self.manifest) as staging:
            for chunk in staging.missing:
                staging.write(chunk, self.piece(chunk))
                written(chunk)
            staging.commit()

    def threads(self, written: Callable[[Chunk], None]) -> None:
        def write(chunk: Chunk) -> None:
            staging.write(chunk, self.piece(chunk))
            written(chunk)

        part_file.WRITE_BACK_BYTES = 64 << 10
        with ModelFiles(self.folder).stage(self.manifest) as staging:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(write, staging.missing))
            staging.commit()

    def reopen(self, written: Callable[[Chunk], None]) -> None:
        ModelFiles(self.folder).reopen(self.hex)

    def remove(self, written: Callable[[Chunk], None]) -> None:
        ModelFiles(self.folder).remove(self.hex)

    def check(self, operation: str, written: set[int]) -> None:
        files = ModelFiles(self.folder)
        path = files.path(self.hex)
        if path is not None:
            assert path.read_bytes() == self.content, "a complete file is whole"
            assert files.damaged(self.hex) == []
            return
        assert not list(self.folder.glob("*.gguf")), "nothing else looks complete"
        with files.stage(self.manifest) as staging:
            missing = {chunk.offset for chunk in staging.missing}
            assert not missing & written, "a verified chunk is never fetched again"
            if operation == "reopen":
                assert not missing, "reopening loses nothing"
            part = (self.folder / f"{self.hex}.part").read_bytes()
            absent = {chunk.digest for chunk in staging.missing}
            for chunk in self.manifest.chunks:
                if chunk.digest not in absent:
                    assert part[chunk.offset : chunk.end] == self.piece(chunk), "what counts as verified is right"
            for chunk in staging.missing:
                staging.write(chunk, self.piece(chunk))
            assert staging.commit().read_bytes() == self.content, "and it can be finished"
        assert len(list(self.folder.iterdir())) == 2, "nothing is left behind"


def kill_at(count: int) -> None:
    """Make the count-th of the calls the last thing that this process tries."""
    left = count

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return wrapped

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))


def run_child(
    victim: Victim, operation: str, prepare: Callable[[], None], delay: float | None
) -> tuple[bool, set[int]]:
    """Whether the child was killed, and the offsets of the chunks that it had written before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        send = os.write
        prepare()
        getattr(victim, operation)(lambda chunk: send(writer, chunk.offset.to_bytes(8, "big")))
        os._exit(0)
    os.close(writer)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "the child failed by itself"
    offsets = {int.from_bytes(said[start : start + 8], "big") for start in range(0, len(said), 8)}
    return os.WIFSIGNALED(status), offsets


def start_over(victim: Victim, operation: str) -> None:
    shutil.rmtree(victim.folder, ignore_errors=True)
    victim.folder.mkdir()
    if operation in ("reopen", "remove"):
        victim.complete()


def every_point(victim: Victim, operation: str) -> int:
    count = 0
    killed = True
    while killed:
        count += 1
        start_over(victim, operation)
        killed, written = run_child(victim, operation, partial(kill_at, count), None)
        victim.check(operation, written)
    return count - 1


def random_moments(victim: Victim) -> int:
    start_over(victim, "threads")
    began = time.monotonic()
    run_child(victim, "threads", lambda: None, None)
    whole = time.monotonic() - began
    for _ in range(ROUNDS_OF_THREADS):
        start_over(victim, "threads")
        _, written = run_child(victim, "threads", lambda: None, random.uniform(0, whole))
        victim.check("threads", written)
    return ROUNDS_OF_THREADS


def main(operation: str, model: str, folder: str) -> None:
    victim = Victim(Path(model), Path(folder))
    print(random_moments(victim) if operation == "threads" else every_point(victim, operation))


if __name__ == "__main__":
    main(*sys.argv[1:])
