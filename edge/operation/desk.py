"""The operator's desk of an edge: status, drain, reload, and what is looked at once a second."""

import asyncio
from collections.abc import Callable

import structlog

from deltaic.v1 import fleet_pb2
from edge.operation.door import Door
from edge.operation.health import Health
from edge.operation.reload import Reload
from edge.spool.journal import DRAINED, UNDRAINED, Journal

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


class Desk:
    """Everything runs on one event loop."""

    def __init__(
        self,
        door: Door,
        health: Health,
        journal: Journal,
        reload: Reload,
        status: Callable[[], fleet_pb2.NodeStatus],
        look: Callable[[], None],
    ) -> None:
        """`status` puts it together; `look` lets those look that are told of nothing."""
        self._door = door
        self._health = health
        self._journal = journal
        self.reload = reload
        self.status = status
        self._look = look

    async def drain(self, *, undo: bool = False) -> int:
        """Take no new requests, or take them again; how many are being answered."""
        if self._door.draining == undo:
            await self._journal.record(UNDRAINED if undo else DRAINED, "requests")
            self._door.draining = not undo
            await self._health.update()
            _log.info("edge.drain", draining=not undo, in_flight=self._door.in_flight)
        return self._door.in_flight

    async def run(self) -> None:
        """Look once a second until cancelled."""
        while True:
            self._look()
            await self._health.update()
            await asyncio.sleep(_LOOK_SECONDS)
