"""The life of a node's process: start, serve until a signal, stop in order, say in one line why it could not start."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from deltaic.errors import DeltaicError

_log = structlog.get_logger(__name__)


def run_node(role: str, running: Callable[[], AbstractAsyncContextManager[object]]) -> int:
    """Enter `running()`, wait for SIGTERM or SIGINT, leave it; the exit status of the process.

    A DeltaicError while starting becomes one line on stderr and status 1; leaving the context is the graceful stop. A
    second signal ends the process at once.
    """
    try:
        asyncio.run(_serve(role, running))
    except DeltaicError as error:
        print(f"deltaic {role}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(role: str, running: Callable[[], AbstractAsyncContextManager[object]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

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
