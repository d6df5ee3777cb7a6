"""The road out: it takes nothing that egress has not built, waits no longer than told, and adds no words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from deltaic.errors import Code, DeltaicError, ResourceExhausted
from deltaic.rpc.channel import open_channel
from deltaic.rpc.context import enter_call, request_id
from deltaic.rpc.server import Server
from deltaic.trust.identity import Identity
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from device.egress import Outbound, Policy, decide
from device.errors import NotAnOutbound, UpstreamCut, UpstreamSlow
from device.uplink import Uplink, travelling_id

ASKED = inference_pb2.GenerateRequest(model="models/m", prompt="hello", sensitivity=inference_pb2.SENSITIVITY_PUBLIC)


def outbound(choices: int = 0) -> Outbound:
    asked = inference_pb2.GenerateRequest(choices=choices)
    asked.MergeFrom(ASKED)
    decision = decide(asked, Policy())
    assert isinstance(decision, Outbound)
    return decision


class Edge(inference_pb2_grpc.InferenceServiceServicer):
    """Answers as `script` says: texts, pauses in seconds, errors, and whether a completion follows."""

    def __init__(self, *script: str | float | Exception, completes: bool = True) -> None:
        self.script = script
        self.completes = completes
        self.asked: list[inference_pb2.GenerateRequest] = []
        self.ids: list[str] = []
        self.nodes: list[str] = []
        self.cancelled = asyncio.Event()
        self.finished = asyncio.Event()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.asked.append(request)
        metadata = dict(context.invocation_metadata())
        self.ids.append(metadata.get("x-request-id", ""))
        self.nodes.append(metadata.get("x-node", ""))
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield inference_pb2.GenerateResponse(text=str(step))
            for choice in range(max(request.choices, 1) if self.completes else 0):
                completion = inference_pb2.Completion(node="edge")
                yield inference_pb2.GenerateResponse(completion=completion, choice=choice)
            self.finished.set()
        finally:
            if not self.finished.is_set():
                self.cancelled.set()


@asynccontextmanager
async def linked(edge: Edge) -> AsyncIterator[Uplink]:
    server = Server("127.0.0.1:0")
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, edge, "deltaic.v1.InferenceService")
    enter_call("ab" * 16, Identity("teller", frozenset()))
    async with server.running(grace=0.1):
        channel = open_channel(f"127.0.0.1:{server.port}", node="device@test")
        try:
            yield Uplink(channel, "upstream edge")
        finally:
            await channel.close()


async def text_of(stream: AsyncIterator[inference_pb2.GenerateResponse]) -> str:
    return "".join([response.text async for response in stream])


async def test_an_answer_comes_through_and_the_call_ends_in_order() -> None:
    edge = Edge("Par", "is")
    async with linked(edge) as uplink:
        assert await text_of(uplink.generate(outbound(), 5.0)) == "Paris"
        await asyncio.wait_for(edge.finished.wait(), 2)
    assert edge.asked == [ASKED]
    assert not edge.cancelled.is_set()


@pytest.mark.parametrize("smuggled", [ASKED, ASKED.SerializeToString(), object.__new__(Outbound), None])
async def test_nothing_but_an_outbound_is_sent(smuggled: Any) -> None:
    edge = Edge("never")
    async with linked(edge) as uplink:
        with pytest.raises(NotAnOutbound):
            await text_of(uplink.generate(smuggled, 5.0))
    assert edge.asked == []


async def test_what_the_edge_answers_instead_keeps_its_meaning() -> None:
    async with linked(Edge(ResourceExhausted("the queue is full", hint="ask later"))) as uplink:
        with pytest.raises(DeltaicError) as caught:
            await text_of(uplink.generate(outbound(), 5.0))
    assert (caught.value.code, caught.value.message) == (Code.RESOURCE_EXHAUSTED, "the queue is full")


async def test_an_edge_that_is_not_there_is_named() -> None:
    enter_call("ab" * 16, Identity("teller", frozenset()))
    channel = open_channel("127.0.0.1:9", node="device@test")
    with pytest.raises(DeltaicError, match="upstream edge") as caught:
        await text_of(Uplink(channel, "upstream edge").generate(outbound(), 5.0))
    assert caught.value.code is Code.UNAVAILABLE
    await channel.close()


async def test_an_edge_that_does_not_begin_in_time_is_left() -> None:
    edge = Edge(30.0, "late")
    async with linked(edge) as uplink:
        with pytest.raises(UpstreamSlow, match="--patience"):
            await text_of(uplink.generate(outbound(), 20.0, first_within=0.2))
        await asyncio.wait_for(edge.cancelled.wait(), 2)


async def test_patience_is_for_the_first_message_only() -> None:
    async with linked(Edge("a", 0.5, "b")) as uplink:
        assert await text_of(uplink.generate(outbound(), 5.0, first_within=0.3)) == "ab"


async def test_an_answer_without_its_completion_is_an_error() -> None:
    async with linked(Edge("half", completes=False)) as uplink:
        with pytest.raises(UpstreamCut, match="ask again"):
            await text_of(uplink.generate(outbound(), 5.0))


async def test_a_client_that_leaves_cancels_the_call() -> None:
    edge = Edge("a", 30.0)
    async with linked(edge) as uplink:
        stream = uplink.generate(outbound(), 40.0)
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        await asyncio.wait_for(edge.cancelled.wait(), 2)


async def test_the_deadline_of_the_caller_holds_for_the_edge() -> None:
    async with linked(Edge(30.0)) as uplink:
        with pytest.raises(DeltaicError) as caught:
            await text_of(uplink.generate(outbound(), 0.3))
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_bytes_that_are_no_answer_are_an_error_not_a_crash() -> None:
    async def garbage(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff\xff garbage"

    handler = grpc.method_handlers_generic_handler(
        "deltaic.v1.InferenceService", {"Generate": grpc.unary_stream_rpc_method_handler(garbage)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    enter_call("ab" * 16, Identity("teller", frozenset()))
    channel = open_channel(f"127.0.0.1:{port}", node="device@test")
    with pytest.raises(DeltaicError):
        await text_of(Uplink(channel, "upstream edge").generate(outbound(), 5.0))
    await channel.close()
    await server.stop(None)


async def test_the_request_id_travels_and_stays_bound_here() -> None:
    edge = Edge("a")
    async with linked(edge) as uplink:
        await text_of(uplink.generate(outbound(), 5.0))
    assert (edge.ids, edge.nodes) == (["ab" * 16], ["device@test"])


async def test_a_request_id_with_words_in_it_does_not_travel() -> None:
    edge = Edge("a")
    async with linked(edge) as uplink:
        enter_call("patient-li-wei", Identity("teller", frozenset()))
        await text_of(uplink.generate(outbound(), 5.0))
        assert request_id() == "patient-li-wei"
    (travelled,) = edge.ids
    assert len(travelled) == 32
    assert travelling_id(travelled) == travelled


@pytest.mark.parametrize("plain", ["0" * 32, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"])
def test_an_id_made_by_a_machine_may_travel(plain: str) -> None:
    assert travelling_id(plain) == plain


async def test_an_answer_of_several_choices_ends_with_the_last_of_them() -> None:
    edge = Edge("a")
    async with linked(edge) as uplink:
        ends = [piece.choice async for piece in uplink.generate(outbound(3), 10.0) if piece.HasField("completion")]
    assert ends == [0, 1, 2]
    assert edge.finished.is_set()
