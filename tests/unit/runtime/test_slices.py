"""What threads ask of the scheduler, read back from the kernel."""

import asyncio
import ctypes
import platform
import struct
import sys
import threading

import pytest

from deltaic.runtime.slices import answer_quickly, answer_quickly_on, compute_at_length

_SHORT_NS = 100_000
_CALLS = {"x86_64": 315, "aarch64": 275}


def slice_ns() -> int:
    """Of this thread, by `sched_getattr(2)`; 0 where the kernel does not say."""
    call = _CALLS.get(platform.machine())
    if sys.platform != "linux" or call is None:
        return 0
    found = ctypes.create_string_buffer(56)
    ctypes.CDLL(None).syscall(call, 0, found, 56, 0)
    return struct.unpack_from("=IIQiIQ", found.raw)[5]


def on_a_thread(work):
    """What `work` gives on a thread of its own, which inherits what this one has."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


needs_slices = pytest.mark.skipif(
    on_a_thread(slice_ns) == 0, reason="this kernel grants threads no slices of their own"
)


@needs_slices
def test_a_thread_that_answers_has_a_short_slice_and_so_have_those_that_it_starts():
    def work():
        compute_at_length()
        before = slice_ns()
        assert answer_quickly()
        return before, slice_ns(), on_a_thread(slice_ns)

    before, own, inherited = on_a_thread(work)
    assert (own, inherited) == (_SHORT_NS, _SHORT_NS) != (before, before)


@needs_slices
def test_one_that_computes_has_what_it_would_have_had():
    def work():
        compute_at_length()
        before = slice_ns()
        answer_quickly()
        assert compute_at_length()
        return before, slice_ns()

    before, after = on_a_thread(work)
    assert before == after != _SHORT_NS


@needs_slices
def test_what_a_loop_hands_to_threads_computes_at_length():
    async def work():
        answer_quickly_on(asyncio.get_running_loop())
        return slice_ns(), await asyncio.to_thread(slice_ns)

    own, handed = on_a_thread(lambda: asyncio.run(work()))
    assert own == _SHORT_NS != handed


def test_where_the_system_knows_nothing_of_it_nothing_happens(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    assert not answer_quickly()
