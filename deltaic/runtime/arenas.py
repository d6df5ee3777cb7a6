"""How the C library hands out memory to the threads of a node.

glibc gives each thread an arena of its own, eight for each core. Buffers of a megabyte, which pass from the line to the
threads that hash and write them, then come from ever new pages, and what one arena has freed is of no use to another.
Two arenas are enough for threads that hold the interpreter's lock most of the time that they allocate.
"""

import ctypes

_M_ARENA_MAX = -8
_ARENAS = 2


def share_arenas() -> bool:
    """For the whole process, best before it has threads. Whether the C library knows of it (`mallopt(3)` of glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, _ARENAS) == 1)
