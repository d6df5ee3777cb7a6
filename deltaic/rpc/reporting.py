"""Reports to the node above, at every change and every few seconds: what a node serves and counts, never content."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

import grpc
import structlog

from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2

_log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 5.0
_COALESCE_SECONDS = 0.2
_BATCH = 1_000
"""Reports in one call."""
_BATCH_BYTES = 3_000_000
"""Bytes of reports in one call: a message has at most 4 MiB, a few bytes a report and its envelope included."""


def own_report(
    node: str,
    role: "inference_pb2.NodeRole.ValueType",
    models: Iterable[fleet_pb2.ModelState],
    requests: fleet_pb2.RequestCounts,
) -> fleet_pb2.NodeReport:
    """The report of a node at this moment; channels that were never heard of are left out."""
    report = fleet_pb2.NodeReport(
        node=node,
        role=role,
        version=version("deltaic"),
        models=[state for state in models if state.phase != fleet_pb2.ModelState.PHASE_UNSPECIFIED],
        requests=requests,
    )
    report.time.GetCurrentTime()
    return report


def batches(reports: Iterable[fleet_pb2.NodeReport]) -> Iterator[list[fleet_pb2.NodeReport]]:
    """Parts of the reports, in order, that fit into one call each. A report that fits into none is left out."""
    batch: list[fleet_pb2.NodeReport] = []
    size = 0
    for report in reports:
        more = report.ByteSize()
        if more > _BATCH_BYTES:
            _log.warning("report.too_large", node=report.node[:255], bytes=more, most=_BATCH_BYTES)
            continue
        if len(batch) == _BATCH or size + more > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(report)
        size += more
    if batch:
        yield batch


class Reporter:
    """Sends reports until cancelled. A cut line is normal: it is said once, and once that it is back."""

    def __init__(self, channel: grpc.aio.Channel, target: str, *, every: float) -> None:
        """`target` names the node above for people; `every` is in seconds."""
        self._stub: fleet_pb2_grpc.FleetServiceAsyncStub = fleet_pb2_grpc.FleetServiceStub(channel)
        self._target = target
        self._every = every
        self._changed = asyncio.Event()
        self._delivered = True

    def changed(self) -> None:
        """There is news: send soon."""
        self._changed.set()

    async def run(self, reports: Callable[[], list[fleet_pb2.NodeReport]]) -> None:
        """Report until cancelled; `reports` gives what there is to send, the sender's own first."""
        while True:
            self._changed.clear()
            await self._deliver(reports())
            await asyncio.sleep(min(_COALESCE_SECONDS, self._every))
            try:
                async with asyncio.timeout(self._every):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _deliver(self, reports: list[fleet_pb2.NodeReport]) -> None:
        try:
            for batch in batches(reports):
                request = fleet_pb2.ReportRequest(reports=batch)
                await self._stub.Report(request, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, self._target)
            if self._delivered:
                _log.info("report.not_delivered", upstream=self._target, code=error.code, error=error.message)
            self._delivered = False
        else:
            if not self._delivered:
                _log.info("report.delivered_again", upstream=self._target)
            self._delivered = True
