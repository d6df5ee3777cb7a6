"""What every server of the contracts answers, whatever is behind it: health, reflection, errors with their reason."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.v1 import (
    audit_pb2_grpc,
    content_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2_grpc,
    registry_pb2_grpc,
    worker_pb2_grpc,
)

SERVICES = {
    "deltaic.v1.AuditService": audit_pb2_grpc,
    "deltaic.v1.ContentService": content_pb2_grpc,
    "deltaic.v1.FleetService": fleet_pb2_grpc,
    "deltaic.v1.InferenceService": inference_pb2_grpc,
    "deltaic.v1.RegistryService": registry_pb2_grpc,
    "deltaic.v1.WorkerService": worker_pb2_grpc,
}


@pytest.fixture
async def server():
    """A server that registers every service and implements no method of it."""
    bare = Server("127.0.0.1:0")
    for full_name, module in SERVICES.items():
        short = full_name.rpartition(".")[2]
        bare.add(getattr(module, f"add_{short}Servicer_to_server"), getattr(module, f"{short}Servicer")(), full_name)
    async with bare.running(grace=0):
        yield bare


@pytest.fixture
async def channel(server):
    async with open_channel(f"127.0.0.1:{server.port}", node="test") as opened:
        yield opened


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_says_that_each_service_serves(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_a_service_can_be_taken_back(server, channel):
    await server.set_serving(False, ["deltaic.v1.InferenceService"])
    stub = health_pb2_grpc.HealthStub(channel)
    gone = await stub.Check(health_pb2.HealthCheckRequest(service="deltaic.v1.InferenceService"), timeout=5)
    kept = await stub.Check(health_pb2.HealthCheckRequest(service="deltaic.v1.ContentService"), timeout=5)
    assert gone.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert kept.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(channel):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_shows_every_service_and_its_methods(server, rpcs):
    def reflected():
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as plain:
            database = ProtoReflectionDescriptorDatabase(plain)
            files = [database.FindFileContainingSymbol(name) for name in SERVICES]
            return set(database.get_services()), files

    services, files = await asyncio.to_thread(reflected)
    methods = {f"/{f.package}.{s.name}/{m.name}" for f in files for s in f.service for m in s.method}
    assert set(SERVICES) | {"grpc.health.v1.Health"} <= services
    assert methods == {rpc.path for rpc in rpcs}


async def test_a_method_that_a_node_does_not_offer_is_unimplemented_with_a_reason(channel):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fleet_pb2_grpc.FleetServiceStub(channel).ListNodes(fleet_pb2.ListNodesRequest(), timeout=5)
    status = rpc_status.from_call(refused.value)
    info = error_details_pb2.ErrorInfo()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("UNIMPLEMENTED", "deltaic")
