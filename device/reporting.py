"""Reports to the node above: what this device holds, and how many requests it answered. Counts, never content."""

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import grpc
import structlog

from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2

_log = structlog.get_logger(__name__)

_TIMEOUT = 5.0


class Reporter:
    """Sends a report every few seconds and at every change."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        target: str,
        *,
        node: str,
        every: float,
        changed: asyncio.Event,
        models: Callable[[], list[fleet_pb2.ModelState]],
        counts: Callable[[], fleet_pb2.RequestCounts],
    ) -> None:
        """`every` is in seconds; setting `changed` brings a report soon; `models` and `counts` are asked at each."""
        self._stub = fleet_pb2_grpc.FleetServiceStub(channel)
        self._target = target
        self._node = node
        self._every = every
        self._models = models
        self._counts = counts
        self._changed = changed
        self._reached = True

    async def run(self) -> None:
        """Report until cancelled. A cut line is normal: it is logged once when it breaks and once when it is back."""
        while True:
            self._changed.clear()
            await self._report()
            try:
                async with asyncio.timeout(self._every):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _report(self) -> None:
        try:
            await self._stub.Report(fleet_pb2.ReportRequest(reports=[self._now()]), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            known = from_rpc_error(error, self._target)
            if self._reached:
                _log.info("report.not_delivered", upstream=self._target, code=known.code, reason=known.reason)
            self._reached = False
        else:
            if not self._reached:
                _log.info("report.delivered_again", upstream=self._target)
            self._reached = True

    def _now(self) -> fleet_pb2.NodeReport:
        report = fleet_pb2.NodeReport(
            node=self._node,
            role=inference_pb2.NODE_ROLE_DEVICE,
            version=_software_version(),
            models=self._models(),
            requests=self._counts(),
        )
        report.time.GetCurrentTime()
        return report


def _software_version() -> str:
    try:
        return version("deltaic")
    except PackageNotFoundError:
        return "unknown"
