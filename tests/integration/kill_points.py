"""Run by test_killed_at_every_call.py as a program of its own: strace kills a process at each of its system calls.

    kill_points.py OPERATION FOLDER

The operation's inputs are in FOLDER/given. A child is forked, strace attaches to it, and the kernel kills it with
SIGKILL when it enters its k-th call of one kind: `strace -f -p CHILD -e inject=CALL:signal=KILL:when=k`, for every
kind that the operation uses and every k that it reaches. After each kill this process looks at what is left. Prints the
number of kills; something that does not hold is a traceback and status 1.
"""

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cli.plain.patch import patch
from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import key_of
from deltaic.store.model_files import ModelFiles
from deltaic.weights.delta import patch as _loaded  # noqa: F401  # before any fork, so that no child loads it
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadPieces
from deltaic.weights.manifest import Manifest
from deltaic.weights.pieces.index import read_index
from deltaic.weights.pieces.join import join
from deltaic.weights.pieces.plan import By, cuts_of
from deltaic.weights.pieces.split import split

WAITING = {"epoll_wait", "epoll_pwait", "epoll_ctl", "epoll_create1", "poll", "ppoll", "select", "mmap", "ioctl"}
"""Calls on descriptors that neither read nor change a file: to die in them is to die before the next one that does."""
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


class Operation:
    """What the child does in `folder`, and what must be true of whatever it leaves."""

    def __init__(self, folder: Path) -> None:
        self.given = folder / "given"
        self.folder = folder / "work"

    def prepare(self) -> None:
        """Before every child."""

    def run(self) -> None:
        raise NotImplementedError

    def check(self, killed: bool) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """What somebody does who finds what was left: run it again, in a process of its own."""
        child = os.fork()
        if child == 0:
            as_child(self.run)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it can be run again"

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))


class Materialise(Operation):
    """Staging, writing and committing a model file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        model = self.given / "new.gguf"
        self.content, self.manifest = model.read_bytes(), Manifest.build(model)

    def run(self) -> None:
        with ModelFiles(self.folder).stage(self.manifest) as staging:
            for chunk in staging.missing:
                staging.write(chunk, self.content[chunk.offset : chunk.end])
            staging.commit()

    def check(self, killed: bool) -> None:
        hex_ = self.manifest.digest.hex
        final = self.folder / f"{hex_}.gguf"
        assert not final.exists() or final.read_bytes() == self.content, "a file with its name is whole"
        files = ModelFiles(self.folder)
        if final.exists():
            assert files.path(hex_) == final, "and counts as complete"
            assert files.damaged(hex_) == []
        else:
            assert killed
            self.finish()
            assert final.read_bytes() == self.content, "and it can be finished"
        left = {path.suffix for path in self.folder.iterdir()} - {".lock"}  # an unlocked one locks nobody out
        assert left == {".gguf", ".manifest"}, "nothing else is left"


class Patch(Operation):
    """`deltaic patch` over a file that has the name already."""

    def prepare(self) -> None:
        shutil.copy(self.given / "old.gguf", self.folder / "model.gguf")

    def run(self) -> None:
        patch(self.given / "old.gguf", self.given / "old-new.delta", self.folder / "model.gguf")

    def check(self, killed: bool) -> None:
        found = (self.folder / "model.gguf").read_bytes()
        allowed = [(self.given / "new.gguf").read_bytes()] + [(self.given / "old.gguf").read_bytes()] * killed
        assert found in allowed, "old or new, never neither"
        assert self.visible() == ["model.gguf"], "nothing else looks like a file"
        self.finish()
        assert list(self.folder.iterdir()) == [self.folder / "model.gguf"], "and nothing is left when it is run again"


class Store(Operation):
    """Two chunks put into a center's store and made durable, one of them over a damaged one."""

    chunks = (b"one chunk" * 5000, b"another chunk" * 3000)

    def prepare(self) -> None:
        damaged = self.folder / key_of(Digest.of(self.chunks[0]))
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(self.chunks[0][:-1] + b"?")

    def run(self) -> None:
        asyncio.run(self._put())

    async def _put(self) -> None:
        store = open_chunk_store(str(self.folder))
        for chunk in self.chunks:
            await store.put(Digest.of(chunk), chunk)
        await store.make_durable([Digest.of(chunk) for chunk in self.chunks])

    def check(self, killed: bool) -> None:
        for path in (self.folder / "chunks").glob("??/*"):
            if "#" in path.name:
                continue  # an unfinished write, which is never a chunk
            data = path.read_bytes()
            old = self.chunks[0][:-1] + b"?"
            assert path.name == Digest.of(data).hex or data == old, "old or new, never a part of a chunk"
        if not killed:
            assert all((self.folder / key_of(Digest.of(chunk))).read_bytes() == chunk for chunk in self.chunks)
            return
        self.finish()
        self.check(killed=False)


class Join(Operation):
    """`deltaic join` of pieces of a model file."""

    def run(self) -> None:
        join(self.given / "pieces", self.folder / "model.gguf")

    def check(self, killed: bool) -> None:
        final = self.folder / "model.gguf"
        assert self.visible() in (["model.gguf"], [] if killed else ["model.gguf"]), "the file or nothing"
        assert not final.exists() or final.read_bytes() == (self.given / "new.gguf").read_bytes(), "and it is whole"
        self.finish()
        assert final.read_bytes() == (self.given / "new.gguf").read_bytes()
        assert list(self.folder.iterdir()) == [final], "nothing is left when it is run again"


class Split(Operation):
    """`deltaic split` of a model file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.expected = read_index(self.given / "pieces")

    def run(self) -> None:
        model = self.given / "new.gguf"
        split(model, self.folder, By.SIZE, cuts_of(model, By.SIZE, self.expected.pieces[0].digest.size))

    def check(self, killed: bool) -> None:
        digests = {piece.name: piece.digest for piece in self.expected.pieces}
        for name in self.visible():
            assert name not in digests or digests[name].matches((self.folder / name).read_bytes()), "a piece is whole"
        try:
            index = read_index(self.folder)
        except BadPieces:
            assert killed
        else:
            assert index == self.expected
            assert set(self.visible()) == {*digests, "pieces.json", "SHA256SUMS"}, "the index comes last"
        self.finish()
        assert read_index(self.folder) == self.expected
        assert len(list(self.folder.iterdir())) == len(digests) + 2, "nothing is left when it is run again"


OPERATIONS = {"materialise": Materialise, "patch": Patch, "store": Store, "join": Join, "split": Split}


def as_child(work: Callable[[], None]) -> NoReturn:
    """What a fork does, and all that it does."""
    try:
        work()
    except BaseException:  # noqa: BLE001  # it must not return into its parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Children:
    """Forks of this process that run an operation under strace."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def under(self, *options: str) -> bool:
        """Run one child to its end; whether it was killed."""
        shutil.rmtree(self._operation.folder, ignore_errors=True)
        self._operation.folder.mkdir()
        self._operation.prepare()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            as_child(lambda: self._wait_and_run(reader))
        os.close(reader)
        command = ("strace", "-f", "-p", str(child), *options)
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"})
        said = tracer.stderr.readline()
        if "attached" not in said:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError(f"strace cannot trace a process of the same user here: {said}{tracer.stderr.read()}")
        os.write(writer, b"!")
        os.close(writer)
        _, status = os.waitpid(child, 0)
        complaints = tracer.communicate()[0]
        tracer.stderr.close()
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, f"the child failed: {complaints}"
        return os.WIFSIGNALED(status)

    def _wait_and_run(self, reader: int) -> None:
        # Where Yama guards processes, only descendants may be traced unless they allow it.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        os.read(reader, 1)
        self._operation.run()

    def calls(self, log: Path) -> Iterator[str]:
        """The kinds of calls on files that the operation makes."""
        assert not self.under("-o", str(log), "-e", "trace=%file,%desc")
        self._operation.check(killed=False)
        found = re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)
        yield from sorted(set(found) - WAITING)

    def kill_at_every(self, call: str) -> int:
        """Kill at the first, second, … call of one kind until there is none left; how many kills there were."""
        count = 0
        trace = ("-o", "/dev/null", "-e", f"trace={call}")
        while self.under(*trace, "-e", f"inject={call}:signal=KILL:when={count + 1}"):
            self._operation.check(killed=True)
            count += 1
        self._operation.check(killed=False)
        return count


def main(name: str, folder: str) -> None:
    operation = OPERATIONS[name](Path(folder))
    children = Children(operation)
    kills = {call: children.kill_at_every(call) for call in children.calls(Path(folder) / "log")}
    print(kills)
    print(sum(kills.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
