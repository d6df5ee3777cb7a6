"""Bringing the spool to the center: one batch at a time, oldest first, for ever; a cut line is normal."""

import asyncio
from collections.abc import Callable

import grpc
import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.status import from_rpc_error
from deltaic.transfer.backoff import Backoff
from deltaic.transfer.threads import in_thread
from deltaic.v1 import audit_pb2, audit_pb2_grpc
from edge.spool.journal import Journal
from edge.spool.spool import Batch

_log = structlog.get_logger(__name__)

_CALL_SECONDS = 15.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Delivery:
    """The center drops what it knows, so a batch whose answer was lost is sent again."""

    def __init__(
        self, channel: grpc.aio.Channel, upstream: str, node: str, journal: Journal, spread: Callable[[], float]
    ) -> None:
        """`upstream` is for people; `spread` gives numbers from 0 to 1, for delays between attempts."""
        self._stub: audit_pb2_grpc.AuditServiceAsyncStub = audit_pb2_grpc.AuditServiceStub(channel)
        self._upstream = upstream
        self._node = node
        self._journal = journal
        self._backoff = Backoff(_FIRST_DELAY, _LONGEST_DELAY, spread)
        self._said: Code | None = None

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._journal.written.clear()
            batch = await in_thread(self._journal.spool.read)
            if batch is None:
                await self._journal.written.wait()
                continue
            if not await self._deliver(batch):
                await asyncio.sleep(self._backoff.next_delay())

    async def _deliver(self, batch: Batch) -> bool:
        spool = self._journal.spool
        request = audit_pb2.AppendRequest(
            node=self._node, spool=str(spool.name), entries=batch.entries, oldest_sequence=batch.oldest
        )
        try:
            answer = await self._stub.Append(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as failure:
            self._failed(from_rpc_error(failure, self._upstream))
            return False
        self._backoff.reset()
        self._said = None
        await in_thread(spool.forget, answer.last_sequence)
        return True

    def _failed(self, error: DeltaicError) -> None:
        """Offline is normal and said quietly, once; a center that refuses is not."""
        if error.code is self._said:
            return
        self._said = error.code
        level = _log.info if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED) else _log.warning
        level("spool.not_delivered", upstream=self._upstream, code=error.code, error=error.message)
