"""FleetService: devices report here, operators read here, and operate this edge."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from typing import Any

import grpc

from deltaic.rpc.pages import page_of
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc
from edge.fleet import Fleet
from edge.operation.desk import Desk


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, fleet: Fleet, desk: Desk) -> None:
        self._fleet = fleet
        self._desk = desk

    async def Report(
        self, request: fleet_pb2.ReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ReportResponse:
        self._fleet.record(request.reports)
        return fleet_pb2.ReportResponse()

    async def ListNodes(
        self, request: fleet_pb2.ListNodesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ListNodesResponse:
        page = page_of(self._fleet.reports(), lambda report: report.node, request.page_size, request.page_token)
        return fleet_pb2.ListNodesResponse(nodes=page.items, next_page_token=page.next_token)

    async def GetNode(
        self, request: fleet_pb2.GetNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.GetNodeResponse:
        return fleet_pb2.GetNodeResponse(status=self._desk.status())

    async def DrainNode(
        self, request: fleet_pb2.DrainNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.DrainNodeResponse:
        in_flight = await self._desk.drain(undo=request.undo)
        return fleet_pb2.DrainNodeResponse(draining=not request.undo, in_flight=in_flight)

    async def ReloadNode(
        self, request: fleet_pb2.ReloadNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ReloadNodeResponse:
        done = await self._desk.reload.reload()
        return fleet_pb2.ReloadNodeResponse(applied=done.applied, need_restart=done.need_restart)
