"""Reports to the node above: sent at once, at every change and now and then; a cut line is not an event each time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from deltaic.rpc.channel import open_channel
from deltaic.rpc.reporting import Reporter, batches, own_report
from deltaic.rpc.server import Server
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2

STATE = fleet_pb2.ModelState(channel="models/m/channels/stable", phase=fleet_pb2.ModelState.PHASE_READY)


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    def __init__(self) -> None:
        self.reports: list[fleet_pb2.NodeReport] = []
        self.came = asyncio.Condition()

    async def Report(self, request: Any, context: Any) -> fleet_pb2.ReportResponse:
        async with self.came:
            self.reports.extend(request.reports)
            self.came.notify_all()
        return fleet_pb2.ReportResponse()

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(5), self.came:
            await self.came.wait_for(lambda: len(self.reports) >= wanted)


@asynccontextmanager
async def reporting(port: int, every: float) -> AsyncIterator[tuple[Reporter, asyncio.Task[None]]]:
    channel = open_channel(f"127.0.0.1:{port}", node="device@test")
    counts = iter(range(1, 1000))
    reporter = Reporter(channel, "upstream edge", every=every)

    def reports() -> list[fleet_pb2.NodeReport]:
        requests = fleet_pb2.RequestCounts(answered=next(counts))
        return [own_report("device@test", inference_pb2.NODE_ROLE_DEVICE, [STATE], requests)]

    task = asyncio.create_task(reporter.run(reports))
    try:
        yield reporter, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await channel.close()


@asynccontextmanager
async def fleet() -> AsyncIterator[tuple[Fleet, int]]:
    server, servicer = Server("127.0.0.1:0"), Fleet()
    server.add(fleet_pb2_grpc.add_FleetServiceServicer_to_server, servicer, "deltaic.v1.FleetService")
    async with server.running(grace=0.1):
        yield servicer, server.port


async def test_a_report_says_who_and_what_and_how_many() -> None:
    async with fleet() as (heard, port), reporting(port, 60.0):
        await heard.count(1)
    (report,) = heard.reports
    assert (report.node, report.role) == ("device@test", inference_pb2.NODE_ROLE_DEVICE)
    assert list(report.models) == [STATE]
    assert report.requests.answered == 1
    assert report.version
    assert report.time.seconds > 1_700_000_000


async def test_reports_come_again_and_again() -> None:
    async with fleet() as (heard, port), reporting(port, 0.02):
        await heard.count(3)
    assert [report.requests.answered for report in heard.reports[:3]] == [1, 2, 3]


async def test_a_change_is_reported_without_waiting() -> None:
    async with fleet() as (heard, port), reporting(port, 60.0) as (reporter, _):
        await heard.count(1)
        reporter.changed()
        await heard.count(2)


@pytest.mark.timeout(30)
async def test_a_line_that_stays_cut_is_logged_once_and_ends_nothing() -> None:
    with capture_logs() as logs:
        async with reporting(9, 0.01) as (_, task):
            async with asyncio.timeout(20):
                while sum(log["event"] == "report.not_delivered" for log in logs) < 1:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            assert not task.done()
    assert [log["event"] for log in logs].count("report.not_delivered") == 1


def sized(node: str, size: int) -> fleet_pb2.NodeReport:
    """A report of a little more than `size` bytes."""
    return fleet_pb2.NodeReport(node=node, version="v" * size)


def test_small_reports_go_a_thousand_at_a_time_in_order() -> None:
    reports = [sized(str(number), 10) for number in range(2_500)]
    parts = list(batches(reports))
    assert [len(part) for part in parts] == [1_000, 1_000, 500]
    assert [report for part in parts for report in part] == reports


def test_large_reports_are_parted_by_their_bytes() -> None:
    reports = [sized(str(number), 900_000) for number in range(8)]
    parts = list(batches(reports))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert max(fleet_pb2.ReportRequest(reports=part).ByteSize() for part in parts) < 3 << 20


def test_a_report_that_no_message_holds_does_not_hold_up_the_others() -> None:
    with capture_logs() as logs:
        parts = list(batches([sized("a", 10), sized("huge", 4 << 20), sized("b", 10)]))
    assert [[report.node for report in part] for part in parts] == [["a", "b"]]
    assert [(log["event"], log["node"]) for log in logs] == [("report.too_large", "huge")]


def test_nothing_to_report_is_no_call() -> None:
    assert list(batches([])) == []


async def test_many_large_reports_arrive() -> None:
    reports = [sized(str(number), 900_000) for number in range(8)]
    async with fleet() as (heard, port), open_channel(f"127.0.0.1:{port}", node="edge@test") as channel:
        task = asyncio.create_task(Reporter(channel, "center", every=60.0).run(lambda: reports))
        await heard.count(8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [report.node for report in heard.reports] == [str(number) for number in range(8)]
