"""How long a thread wants to compute at a time, told to the Linux scheduler.

On a machine whose cores all compute, a thread that only passes messages on waits for its turn at each of them: up to a
slice of the others, milliseconds, at every hop. Since Linux 6.12 a thread may ask for a slice of its own
(`sched_setattr(2)`, `sched_runtime` of an ordinary thread): one that wants less at a time is let in sooner when it
wakes, and gets no more in all. Threads and processes that it starts inherit that, so those that compute take it back.
"""

import asyncio
import ctypes
import os
import platform
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

_SHORT_NS = 100_000
"""The least that the scheduler grants."""
_CALLS = {"x86_64": 314, "aarch64": 274}
_SIZE = 48
_PACKED = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`: size, policy, flags, nice, priority, runtime, deadline, period."""


def answer_quickly() -> bool:
    """For a thread that waits, answers and waits again. Whether the system took it."""
    return _ask(_SHORT_NS)


def compute_at_length() -> bool:
    """For a thread that computes: what threads have that never asked. Whether the system took it."""
    return _ask(0)


def answer_quickly_on(loop: asyncio.AbstractEventLoop) -> None:
    """For the thread of a loop; what it hands to threads (`asyncio.to_thread`) computes at length."""
    answer_quickly()
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio", initializer=compute_at_length))


def _ask(nanoseconds: int) -> bool:
    """Of the calling thread; kept as it is: its policy, which must be the ordinary one, and its niceness."""
    call = _CALLS.get(platform.machine())
    if sys.platform != "linux" or call is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    wanted = _PACKED.pack(_SIZE, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, nanoseconds, 0, 0)
    return bool(ctypes.CDLL(None).syscall(call, 0, ctypes.c_char_p(wanted), 0) == 0)
