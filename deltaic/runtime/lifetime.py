"""The life of a node's process: start, serve until a signal, stop in order, say in one line why it could not start."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import structlog

from deltaic.errors import DeltaicError
from deltaic.runtime.arenas import share_arenas
from deltaic.runtime.logs import configure_logs
from deltaic.runtime.settings import NodeSettings
from deltaic.runtime.slices import answer_quickly_on

S = TypeVar("S", bound=NodeSettings)

_log = structlog.get_logger(__name__)


def main_of(
    role: str,
    settings_class: type[S],
    running: Callable[[S], AbstractAsyncContextManager[object]],
    argv: Sequence[str] | None,
) -> int:
    """What `python -m ROLE` does: read the settings, set up logs, run; the exit status of the process.

    `argv` None takes the arguments of this process. `--help` prints and exits 0.
    """
    try:
        settings = settings_class.load(sys.argv[1:] if argv is None else argv, prog=f"deltaic {role}")
    except DeltaicError as error:
        print(f"deltaic {role}: {error}", file=sys.stderr)
        return 1
    configure_logs(settings.log_level, json=settings.log_json)
    return run_node(role, lambda: running(settings))


def run_node(role: str, running: Callable[[], AbstractAsyncContextManager[object]]) -> int:
    """Enter `running()`, wait for SIGTERM or SIGINT, leave it; the exit status of the process.

    A DeltaicError while starting becomes one line on stderr and status 1; leaving the context is the graceful stop. A
    second signal ends the process at once.
    """
    share_arenas()
    try:
        asyncio.run(_serve(role, running))
    except DeltaicError as error:
        print(f"deltaic {role}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@asynccontextmanager
async def beside(*endless: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these until the context ends. One that fails takes the node with it: it must not go on half alive."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in endless]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        # What went wrong is the first of them, whether it was in a task or in the body of the context.
        raise errors.exceptions[0] from None


@asynccontextmanager
async def on_hangup(act: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Do this at every SIGHUP until the context ends; outside of a main thread no signal comes, and nothing is done."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def signalled() -> None:
        task = loop.create_task(act(), name="hangup")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        loop.add_signal_handler(signal.SIGHUP, signalled)
    except (RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(role: str, running: Callable[[], AbstractAsyncContextManager[object]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    answer_quickly_on(loop)

    def signalled(number: signal.Signals) -> None:
        _log.info("node.stopping", role=role, signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, signalled, each)
    async with running():
        await stop.wait()
    _log.info("node.stopped", role=role)
