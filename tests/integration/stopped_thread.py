"""Stop one thread of a child process, and only that: what a hang in native code looks like from outside.

SIGSTOP stops a whole process. The kernel stops a single thread only for a tracer, so a thread of the test traces it.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SEIZE, _INTERRUPT, _CONT = 0x4206, 0x4207, 7
_ALL_THREADS = 0x4000_0000  # __WALL


def thread_named(pid: int, name: str) -> int:
    """The first thread of a process that is called so; its number."""
    threads = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda each: int(each.name))
    return next(int(each.name) for each in threads if (each / "comm").read_text().strip() == name)


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """Keep a thread of a child from running a single instruction; a kill of its process still ends it."""
    tracer = _Tracer(thread)
    tracer.start()
    tracer.held.wait()
    try:
        if tracer.failed:
            raise tracer.failed
        yield
    finally:
        tracer.join()


class _Tracer(threading.Thread):
    """Traces until the thread is gone: who traces must also see it end, or the process stays a zombie."""

    def __init__(self, thread: int) -> None:
        super().__init__(name="tracer", daemon=True)
        self._traced = thread
        self.held = threading.Event()
        self.failed: OSError | None = None

    def run(self) -> None:
        try:
            self._trace(_SEIZE)
            self._trace(_INTERRUPT)
            os.waitpid(self._traced, _ALL_THREADS)
        except OSError as error:
            self.failed = error
            self.held.set()
            return
        self.held.set()
        while True:
            try:
                _, status = os.waitpid(self._traced, _ALL_THREADS)
            except ChildProcessError:
                return
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return
            self._trace(_CONT)  # on its way out

    def _trace(self, request: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(request, self._traced, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace({request})")
