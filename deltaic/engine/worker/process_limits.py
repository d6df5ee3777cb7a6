"""What the kernel is told about this process: it dies with its parent and leaves no core dump with prompts in it."""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1


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
