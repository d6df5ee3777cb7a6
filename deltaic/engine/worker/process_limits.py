"""What the kernel is told about this process.

It dies with its parent, leaves no core dump with prompts in it, and goes before its node when memory runs out.
"""

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_GOES_FIRST = 500
_ADJUSTMENT = Path("/proc/self/oom_score_adj")


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when the thread that started this process ends. Raises ProcessLookupError when it already has.

    The kernel counts the starting thread, not its process: a supervisor starts workers from the thread of its loop.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError(f"the parent {parent} is gone")


def leave_no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def go_first_when_memory_runs_out() -> None:
    """Let the kernel choose this process before its node, which can start it again. Any user may raise this."""
    with contextlib.suppress(OSError, ValueError):
        if int(_ADJUSTMENT.read_text()) < _GOES_FIRST:
            _ADJUSTMENT.write_text(str(_GOES_FIRST))


def name_thread(name: str) -> None:
    """What `top -H` and `/proc/PID/task/TID/comm` call this thread; at most 15 bytes of it."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
