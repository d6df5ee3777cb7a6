"""FleetService: messages to the fleet's table and back."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from typing import Any

import grpc

from center.fleet import Fleet
from deltaic.transfer.threads import in_thread
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def Report(
        self, request: fleet_pb2.ReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ReportResponse:
        await in_thread(self._fleet.record, request.reports)
        return fleet_pb2.ReportResponse()

    async def ListNodes(
        self, request: fleet_pb2.ListNodesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ListNodesResponse:
        page = await in_thread(self._fleet.list_nodes, request.page_size, request.page_token)
        return fleet_pb2.ListNodesResponse(nodes=page.items, next_page_token=page.next_token)

    async def GetNode(
        self, request: fleet_pb2.GetNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.GetNodeResponse:
        raise NotImplementedError  # edges offer it; callers are told so

    async def DrainNode(
        self, request: fleet_pb2.DrainNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.DrainNodeResponse:
        raise NotImplementedError

    async def ReloadNode(
        self, request: fleet_pb2.ReloadNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.ReloadNodeResponse:
        raise NotImplementedError
