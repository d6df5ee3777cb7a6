"""FleetService: devices report here, and operators read here."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from typing import Any

import grpc

from deltaic.rpc.pages import page_of
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc
from edge.fleet import Fleet


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

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
