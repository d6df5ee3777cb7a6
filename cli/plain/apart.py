"""Work that Ctrl-C reaches only through us: the processes that it starts would else each print a traceback."""

import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import TypeVar

T = TypeVar("T")
_PATIENCE_SECONDS = 10.0
_WAKE_SECONDS = 0.2


class _Stopped(Exception):
    """Ctrl-C was pressed while the work went on."""


def run_apart(work: Callable[[Callable[[], None]], T], *, give_up: Callable[[], None]) -> T:
    """Run `work` in a thread whose children do not hear Ctrl-C; it gets a function to call often, which raises then.

    Work that does not stop in time is left to `give_up`, which must not return. Raises KeyboardInterrupt, and what
    the work raises.
    """
    stop, done = threading.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def go_on() -> None:
        if stop.is_set():
            raise _Stopped

    def body() -> None:
        try:
            results.append(work(go_on))
        except BaseException as error:  # noqa: BLE001  # raised again where somebody waits for it
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=body, name="apart", daemon=True)
    # Blocked when the thread starts, Ctrl-C stays so for it and for whatever it starts, also through exec. Starting the
    # resource tracker of multiprocessing would unblock it, so that comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Not join: one that is interrupted takes the thread for ended (CPython 3.11). Not for ever: the kernel may give
        # the signal to another thread, and Python acts on it when this one wakes.
        while not done.wait(_WAKE_SECONDS):
            pass
    except KeyboardInterrupt:
        stop.set()
        if not done.wait(_PATIENCE_SECONDS):
            give_up()
        raise
    if errors:
        raise errors[0]
    return results[0]
