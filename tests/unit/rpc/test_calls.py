"""What happens around every call: request ids, roles, deadlines, the orderly end of a stream."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from deltaic.errors import Code
from deltaic.rpc.channel import open_channel
from deltaic.rpc.context import caller, enter_call, request_id
from deltaic.rpc.interceptors import NoDeadline, ServerCalls
from deltaic.rpc.server import PortInUse, Server
from deltaic.rpc.status import from_rpc_error
from deltaic.runtime.addresses import BadAddress
from deltaic.trust.identity import Identity, OpenNetwork, Role
from deltaic.trust.roles import METHOD_ROLES
from deltaic.v1 import content_pb2, content_pb2_grpc, inference_pb2, inference_pb2_grpc

NAME = "deltaic.v1.InferenceService"


@dataclass
class Node(inference_pb2_grpc.InferenceServiceServicer):
    """Writes down who called and under which id; asks `above` for the answer when there is one."""

    above: Any = None
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, method: str, context: Any) -> None:
        self.calls.append((method, request_id(), caller().name))
        self.metadata.append(dict(context.invocation_metadata()))

    async def ListModels(self, request: Any, context: Any) -> inference_pb2.ListModelsResponse:
        self.note("ListModels", context)
        if self.above:
            await self.above.ListModels(request, timeout=context.time_remaining())
        return inference_pb2.ListModelsResponse()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.note("Generate", context)
        try:
            if self.above:
                async for response in self.above.Generate(request, timeout=context.time_remaining()):
                    yield response
                return
            for _ in range(request.max_tokens):
                yield inference_pb2.GenerateResponse(text=".")
                await asyncio.sleep(0.01)
        finally:
            self.ended.set()


@dataclass(frozen=True)
class Only:
    """An authenticator that gives everybody these roles."""

    roles: frozenset[Role]

    def authenticate(self, metadata: Mapping[str, str], peer: str) -> Identity:
        return Identity("somebody", self.roles)


@asynccontextmanager
async def serving(node: Node, **options: Any) -> AsyncIterator[Server]:
    server = Server("127.0.0.1:0", **options)
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, node, NAME)
    async with server.running(grace=0.2):
        yield server


@asynccontextmanager
async def channel_to(server: Server, name: str = "caller@test") -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(f"127.0.0.1:{server.port}", node=name)
    try:
        yield channel
    finally:
        await channel.close()


def stub_of(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.InferenceServiceStub(channel)


async def drain(call: Any) -> list[Any]:
    return [message async for message in call]


# --- request ids ---


@pytest.mark.parametrize("method", ["ListModels", "Generate"])
async def test_a_request_id_passes_through_two_hops(method: str) -> None:
    far = Node()
    async with serving(far) as far_server, channel_to(far_server, "near@test") as onward:
        near = Node(above=stub_of(onward))
        async with serving(near) as near_server, channel_to(near_server) as channel:
            enter_call("journey-1", Identity("test", frozenset()))
            if method == "Generate":
                await drain(stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=1), timeout=5))
            else:
                await stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    for node, name in ((near, "caller@test"), (far, "near@test")):
        assert node.calls == [(method, "journey-1", name)]
        assert node.metadata[0]["x-request-id"] == "journey-1"


async def bare_call(server: Server, *metadata: tuple[str, str]) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5, metadata=metadata)


async def test_a_call_without_an_id_is_given_one_of_its_own() -> None:
    # The server may have been started while a call was being served, for example in a test or by a demo.
    enter_call("of-the-starter", Identity("test", frozenset()))
    node = Node()
    async with serving(node) as server:
        await bare_call(server)
        await bare_call(server)
    first, second = (identifier for _, identifier, _ in node.calls)
    assert len(first) == len(second) == 32
    assert first != second


async def test_an_id_longer_than_64_characters_is_cut() -> None:
    node = Node()
    async with serving(node) as server:
        await bare_call(server, ("x-request-id", "a" * 500))
    assert node.calls[0][1] == "a" * 64


async def test_every_line_logged_in_a_call_can_carry_its_id() -> None:
    node = Node()
    async with serving(node) as server:
        with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
            await bare_call(server, ("x-request-id", "journey-2"))
            async with asyncio.timeout(5):
                while not any(log["event"] == "rpc.served" for log in logs):
                    await asyncio.sleep(0.01)
    (served,) = [log for log in logs if log["event"] == "rpc.served"]
    assert served["request_id"] == "journey-2"


def test_outside_a_call_nobody_is_calling() -> None:
    with pytest.raises(LookupError):
        contextvars.Context().run(caller)


# --- roles ---


@pytest.mark.parametrize("roles", [frozenset(), frozenset({Role.AUDITOR}), frozenset({Role.PUBLISHER})])
async def test_a_caller_without_a_role_of_the_method_is_refused_before_it_is_served(roles: frozenset[Role]) -> None:
    node = Node()
    async with serving(node, authenticator=Only(roles)) as server, channel_to(server) as channel:
        for call in (
            stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5),
            drain(stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=1), timeout=5)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            known = from_rpc_error(caught.value, "node")
            assert (known.code, known.reason) == (Code.PERMISSION_DENIED, "ROLE_MISSING")
            assert "application" in known.hint
    assert node.calls == []


async def test_a_caller_with_one_of_the_roles_is_served() -> None:
    node = Node()
    async with (
        serving(node, authenticator=Only(frozenset({Role.APPLICATION}))) as server,
        channel_to(server) as channel,
    ):
        await stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    assert node.calls[0][2] == "somebody"


async def test_a_method_that_declares_no_role_is_refused_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METHOD_ROLES, f"/{NAME}/ListModels")
    node = Node()
    async with serving(node, authenticator=OpenNetwork()) as server, channel_to(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    assert from_rpc_error(caught.value, "node").reason == "ROLE_MISSING"
    assert node.calls == []


async def test_health_and_reflection_are_open_to_those_without_a_role() -> None:
    async with serving(Node(), authenticator=Only(frozenset())) as server, channel_to(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", NAME):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listed,) = await drain(reflection.ServerReflectionInfo(asked, timeout=5))
        assert NAME in {service.name for service in listed.list_services_response.service}


# --- deadlines ---


async def test_a_call_without_a_timeout_is_refused_before_anything_is_sent() -> None:
    node = Node()
    async with serving(node) as server, channel_to(server) as channel:
        with pytest.raises(NoDeadline, match="ListModels"):
            await stub_of(channel).ListModels(inference_pb2.ListModelsRequest())
        with pytest.raises(NoDeadline, match="Generate"):
            await drain(stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=1)))
    assert node.calls == []


async def test_a_stream_to_the_server_without_a_timeout_is_refused_too() -> None:
    async with serving(Node()) as server, channel_to(server) as channel:
        content = content_pb2_grpc.ContentServiceStub(channel)
        with pytest.raises(NoDeadline, match="Write"):
            await content.Write(iter([content_pb2.WriteRequest()]))


async def test_a_deadline_ends_the_call_on_both_sides() -> None:
    node = Node()
    async with serving(node) as server, channel_to(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await drain(stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=10_000), timeout=0.2))
        assert from_rpc_error(caught.value, "node").code is Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(node.ended.wait(), 2)


async def test_a_client_that_goes_away_ends_the_servers_generator() -> None:
    node = Node()
    async with serving(node) as server, channel_to(server) as channel:
        call = stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=10_000), timeout=30)
        assert (await call.read()).text == "."
        call.cancel()
        await asyncio.wait_for(node.ended.wait(), 2)


# --- servers ---


async def test_a_port_in_use_is_one_line_of_advice() -> None:
    async with serving(Node()) as first:
        second = Server(f"127.0.0.1:{first.port}")
        with pytest.raises(PortInUse) as caught:
            async with second.running():
                pytest.fail("two servers listen on one port")
    assert f"cannot listen on 127.0.0.1:{first.port}; the port is taken" in str(caught.value)
    assert "--listen" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("192.0.2.1:0", "; the address is not of this machine"),
        ("no-such-machine.invalid:0", "no machine is known"),
        ("unix:/no/such/folder/node.sock", "its folder must exist"),
    ],
)
async def test_an_address_that_cannot_be_had_is_refused_with_the_cause(listen: str, why: str) -> None:
    with pytest.raises(PortInUse, match=f"cannot listen on {listen}.*{why}"):
        async with Server(listen).running():
            pytest.fail("it listens")


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "127.0.0.1:-1", ""])
async def test_what_is_no_address_is_said_to_be_none(listen: str) -> None:
    with pytest.raises(BadAddress, match="HOST:PORT"):
        async with Server(listen).running():
            pytest.fail("it listens")


async def test_a_port_is_free_again_after_the_end() -> None:
    async with serving(Node()) as first:
        port = first.port
    async with Server(f"127.0.0.1:{port}").running():
        pass


async def test_health_says_what_the_node_says_and_ends_with_it() -> None:
    async with serving(Node()) as server, channel_to(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await server.set_serving(False, [NAME])
        answer = await health.Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_call_in_flight_may_finish_while_the_server_stops() -> None:
    node, server = Node(), Server("127.0.0.1:0")
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, node, NAME)
    async with server.running(grace=5.0):
        channel = open_channel(f"127.0.0.1:{server.port}", node="caller@test")
        call = aiter(stub_of(channel).Generate(inference_pb2.GenerateRequest(max_tokens=20), timeout=10))
        assert (await anext(call)).text == "."
        rest = asyncio.create_task(drain(call))
    assert len(await rest) == 19
    await channel.close()


async def test_a_streaming_method_that_is_no_async_generator_is_a_mistake_found_at_once() -> None:
    async def not_a_generator(_request: Any, _context: Any) -> None:
        return None

    async def found(_details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(not_a_generator)

    class Details:
        method, invocation_metadata = f"/{NAME}/Generate", ()

    with pytest.raises(TypeError, match="async generator"):
        await ServerCalls(OpenNetwork()).intercept_service(found, Details())  # type: ignore[arg-type]


# --- channels ---


async def test_a_unary_call_is_tried_again_when_the_node_was_away_for_a_moment() -> None:
    node, server = Node(), Server("127.0.0.1:0")
    attempts: list[str] = []

    class Shaky(Node):
        async def ListModels(self, request: Any, context: Any) -> inference_pb2.ListModelsResponse:
            attempts.append(request_id())
            if len(attempts) < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "in a moment")
            return await node.ListModels(request, context)

    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, Shaky(), NAME)
    async with server.running(grace=0.1), channel_to(server) as channel:
        await stub_of(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=10)
    assert len(attempts) == 3
    assert len(set(attempts)) == 1, "one request, one id"


async def test_a_stream_is_never_tried_again_by_itself() -> None:
    attempts: list[int] = []

    class Shaky(Node):
        async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
            attempts.append(1)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "in a moment")
            yield inference_pb2.GenerateResponse()

    async with serving(Shaky()) as server, channel_to(server) as channel:
        with pytest.raises(grpc.RpcError):
            await drain(stub_of(channel).Generate(inference_pb2.GenerateRequest(), timeout=5))
    assert attempts == [1]
