"""Blocking work beside the event loop, never left behind by a cancelled task."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread. A cancelled caller still waits for it to end, and only then is cancelled.

    A thread cannot be stopped; returning earlier would let the caller close a file that the thread is writing.
    """
    return await _finished(_started(partial(work, *args, **kwargs)), threading.Event())


async def in_thread_with_stop(work: Callable[[threading.Event], T]) -> T:
    """The same for long work that looks at an event now and then; it is set when the caller is cancelled."""
    stop = threading.Event()
    return await _finished(_started(partial(work, stop)), stop)


def _started(work: Callable[[], T]) -> "asyncio.Future[T]":
    """What `asyncio.to_thread` does, but for the task around it, which costs as much as hashing a small chunk."""
    return asyncio.get_running_loop().run_in_executor(None, partial(copy_context().run, work))


async def _finished(running: "asyncio.Future[T]", stop: threading.Event) -> T:
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()  # looked at, so that asyncio does not report it as forgotten
        raise
