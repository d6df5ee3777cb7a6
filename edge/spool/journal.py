"""Where the parts of an edge say what they decided: collected on the loop, written by a thread, many at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from deltaic.transfer.threads import in_thread
from edge.spool.spool import Draft, Spool

_log = structlog.get_logger(__name__)

STARTED, STOPPED = "EDGE_STARTED", "EDGE_STOPPED"
SWITCHED, SWITCH_FAILED = "EDGE_SWITCHED", "EDGE_SWITCH_FAILED"
LOADED, EVICTED = "EDGE_LOADED", "EDGE_EVICTED"
DRAINED, UNDRAINED, RELOADED = "EDGE_DRAINED", "EDGE_UNDRAINED", "EDGE_RELOADED"
ANSWERED, FORWARDED, REFUSED = "EDGE_ANSWERED", "EDGE_FORWARDED", "EDGE_REFUSED"
_MOST_WAITING = 10_000


@dataclass(slots=True)
class _Waiting:
    draft: Draft
    written: "asyncio.Future[None] | None" = None


class Journal:
    """Lives on the event loop. Outside of `running()` nothing is written."""

    def __init__(self, spool: Spool, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self.spool = spool
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self.written = asyncio.Event()
        """Set at every write; whoever delivers waits for it and clears it."""
        self._ended = False

    def note(self, action: str, resource: str, **details: str) -> None:
        """Say it; it is written soon. Never waits."""
        self._add(_Waiting(self._draft(action, resource, details)))

    async def record(self, action: str, resource: str, **details: str) -> None:
        """Say it before its effect is visible: durable when this returns, unless the disk fails, which is logged."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._add(_Waiting(self._draft(action, resource, details), future)):
            await future

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Journal"]:
        """Write until the context ends, and then what is left."""
        writer = asyncio.create_task(self._write_for_ever(), name="journal")
        try:
            yield self
        finally:
            self._ended = True
            self._wake.set()
            await writer
            await in_thread(self.spool.close)

    def _add(self, waiting: _Waiting) -> bool:
        if self._ended or len(self._waiting) >= _MOST_WAITING:
            _log.warning("journal.lost", action=waiting.draft.action)
            self.spool.lost += 1
            return False
        self._waiting.append(waiting)
        self._wake.set()
        return True

    def _draft(self, action: str, resource: str, details: dict[str, str]) -> Draft:
        return Draft(action, resource, details, int(self._clock() * 1e6))

    async def _write_for_ever(self) -> None:
        while not self._ended or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            taken, self._waiting = self._waiting, []
            if taken:
                await in_thread(self.spool.append, [each.draft for each in taken])
                self.written.set()
            for each in taken:
                if each.written is not None and not each.written.done():
                    each.written.set_result(None)
