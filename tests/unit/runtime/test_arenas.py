"""How many arenas the C library has for threads that allocate, counted by itself (`malloc_info(3)` of glibc)."""

import ctypes
import platform
import subprocess
import sys

import pytest

from deltaic.runtime.arenas import share_arenas

_COUNT = """
import ctypes, sys, threading
from deltaic.runtime.arenas import share_arenas

if sys.argv[1] == "share":
    assert share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.open_memstream.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    together.wait()
    kept = [libc.malloc(ctypes.c_size_t(1000)) for _ in range(100)]
    together.wait()
    return kept

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
text, size = ctypes.c_char_p(), ctypes.c_size_t()
stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(text.value.count(b"<heap nr="))
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no arenas")


def arenas(how):
    run = [sys.executable, "-c", _COUNT, how]
    return int(subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout)


@needs_glibc
def test_eight_threads_share_two_arenas_that_would_have_had_their_own():
    assert arenas("share") <= 2 < arenas("alone")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not share_arenas()
