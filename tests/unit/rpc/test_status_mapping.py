"""Errors to statuses and back, over a real connection: code, reason, message, hint and metadata survive."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deltaic import errors
from deltaic.errors import Code, DeltaicError, Internal, InvalidArgument, NotFound
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.rpc.status import DOMAIN, STATUS_KEY, from_rpc_error, to_status
from deltaic.v1 import fleet_pb2, fleet_pb2_grpc, inference_pb2, inference_pb2_grpc

KNOWN = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, DeltaicError)]


class Failing(inference_pb2_grpc.InferenceServiceServicer):
    """Raises what it is told, in a unary and in a streaming method."""

    def __init__(self, error: Exception, *, after: int = 0) -> None:
        self.error = error
        self.after = after

    async def CountTokens(self, request: Any, context: Any) -> inference_pb2.CountTokensResponse:
        raise self.error

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
        for _ in range(self.after):
            yield inference_pb2.GenerateResponse(text="a")
        raise self.error


@asynccontextmanager
async def calling(servicer: inference_pb2_grpc.InferenceServiceServicer) -> AsyncIterator[Any]:
    server = Server("127.0.0.1:0")
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, "deltaic.v1.InferenceService")
    async with server.running(grace=0.1):
        channel = open_channel(f"127.0.0.1:{server.port}", node="caller@test")
        try:
            yield inference_pb2_grpc.InferenceServiceStub(channel)
        finally:
            await channel.close()


async def answered(error: Exception, **options: int) -> DeltaicError:
    """What a client understands when a server's method raises `error`; the same from a unary and a stream."""
    async with calling(Failing(error, **options)) as stub:
        with pytest.raises(grpc.RpcError) as unary:
            await stub.CountTokens(inference_pb2.CountTokensRequest(), timeout=5)
        with pytest.raises(grpc.RpcError) as stream:
            async for _ in stub.Generate(inference_pb2.GenerateRequest(), timeout=5):
                pass
    first, second = (from_rpc_error(caught.value, "edge") for caught in (unary, stream))
    assert (first.code, first.reason, first.hint) == (second.code, second.reason, second.hint)
    return first


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
async def test_every_error_arrives_as_what_it_was(kind: type[DeltaicError]) -> None:
    known = await answered(kind("so it is", hint="do this", model="models/m", bytes="12"))
    assert known.code is kind.code
    assert known.reason == kind.reason
    assert known.message == "so it is"
    assert known.hint == "do this"
    assert known.metadata == {"model": "models/m", "bytes": "12"}
    assert str(known) == "so it is; do this"


@pytest.mark.parametrize("message", ["", "größer und größer", "文件不是 GGUF", "two\nlines", "100 % sure", "\x00 \x1f"])
async def test_any_text_survives_the_way(message: str) -> None:
    assert (await answered(InvalidArgument(message, hint=message))).message == message


async def test_a_long_message_in_any_script_does_not_cost_the_caller_its_code() -> None:
    known = await answered(NotFound("語" * 1_000, hint="語" * 1_000))
    assert (known.code, known.message[:100]) == (Code.NOT_FOUND, "語" * 100)


async def test_a_very_long_message_does_not_cost_the_caller_its_code() -> None:
    known = await answered(InvalidArgument("x" * 100_000, hint="y" * 100_000))
    assert (known.code, known.reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_an_error_after_some_answers_keeps_its_meaning() -> None:
    assert (await answered(NotFound("gone"), after=3)).code is Code.NOT_FOUND


async def test_a_mistake_of_ours_is_internal_and_tells_nothing() -> None:
    known = await answered(ValueError("the prompt was: my secret"))
    assert (known.code, known.reason) == (Code.INTERNAL, "INTERNAL")
    assert "secret" not in repr(known.__dict__)
    assert "request id" in known.message


async def test_a_method_that_a_node_does_not_offer_is_unimplemented() -> None:
    async with calling(inference_pb2_grpc.InferenceServiceServicer()) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            await stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    assert from_rpc_error(caught.value, "edge").code is Code.UNIMPLEMENTED


async def test_an_error_passed_on_by_a_second_node_is_still_the_first_nodes() -> None:
    first = await answered(NotFound("no such model", hint="see deltaic models", model="models/x"))
    second = await answered(first)
    assert (second.code, second.reason, second.message) == (Code.NOT_FOUND, "NOT_FOUND", "no such model")
    assert (second.hint, second.metadata) == ("see deltaic models", {"model": "models/x"})


def test_a_status_carries_one_error_info_of_our_domain() -> None:
    status = to_status(NotFound("gone", hint="look", chunk="sha256:00"))
    assert status.code == grpc.StatusCode.NOT_FOUND.value[0]
    (detail,) = status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.domain) == ("NOT_FOUND", DOMAIN)
    assert dict(info.metadata) == {"chunk": "sha256:00", "hint": "look"}


def test_every_code_of_ours_is_one_of_grpcs() -> None:
    assert {code.value for code in Code} == {code.name for code in grpc.StatusCode} - {"OK"}


async def test_a_node_that_is_not_there_is_named_with_advice() -> None:
    channel = open_channel("127.0.0.1:9", node="caller@test")
    with pytest.raises(grpc.RpcError) as caught:
        await inference_pb2_grpc.InferenceServiceStub(channel).ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    await channel.close()
    known = from_rpc_error(caught.value, "edge 127.0.0.1:9")
    assert (known.code, known.reason) == (Code.UNAVAILABLE, "UNREACHABLE")
    assert "edge 127.0.0.1:9" in known.message
    assert known.hint


def rpc_error(code: grpc.StatusCode, details: str | None, *trailers: tuple[str, Any]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


def test_a_deadline_names_who_was_late() -> None:
    known = from_rpc_error(rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), "center")
    assert (known.code, known.message) == (Code.DEADLINE_EXCEEDED, "center did not answer in time")


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_any_code_without_details_is_understood(code: grpc.StatusCode) -> None:
    known = from_rpc_error(rpc_error(code, None), "center")
    assert known.code is (Code(code.name) if code is not grpc.StatusCode.OK else Code.UNKNOWN)
    assert "center" in known.message


def other_detail() -> bytes:
    packed = AnyMessage()
    packed.Pack(RetryInfo())
    return Status(code=5, message="other", details=[packed]).SerializeToString()


@pytest.mark.parametrize(
    "trailer", [b"", b"\xff\xff garbage", b"\x0a", Status(code=5).SerializeToString(), other_detail()]
)
def test_details_that_are_not_ours_are_not_believed(trailer: bytes) -> None:
    known = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "plain text", (STATUS_KEY, trailer)), "center")
    assert known.code is Code.NOT_FOUND
    assert "plain text" in known.message


def test_metadata_may_have_any_keys() -> None:
    """They are the other side's choice, so none of them may be taken for an argument of ours."""
    status = to_status(NotFound("gone"))
    info = ErrorInfo(reason="NOT_FOUND", metadata={"code": "1", "message": "2", "reason": "3", "self": "4"})
    status.details[0].Pack(info)
    known = from_rpc_error(
        rpc_error(grpc.StatusCode.NOT_FOUND, "x", (STATUS_KEY, status.SerializeToString())), "center"
    )
    assert (known.code, known.message) == (Code.NOT_FOUND, "gone")
    assert known.metadata == {"code": "1", "message": "2", "reason": "3", "self": "4"}


def test_the_code_of_the_call_counts_not_the_one_in_the_details() -> None:
    lying = to_status(Internal("boom")).SerializeToString()
    known = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "x", (STATUS_KEY, lying)), "center")
    assert known.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("code", "details", "reason", "says"),
    [
        (
            "UNIMPLEMENTED",
            "Method not found!",
            "UNIMPLEMENTED",
            "edge 10.0.0.1:7410 does not offer this; .*ask the center",
        ),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", "UNIMPLEMENTED", "404; is this a Deltaic node"),
        ("NOT_FOUND", "", "NOT_FOUND", "no such service; is it a node of another role"),
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 4)", "TOO_LARGE", "request .* 4 MiB"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)", "TOO_LARGE", "answer .* 4 MiB"),
        ("UNAVAILABLE", "Received http2 header with status: 503", "UNREACHABLE", "no answer .*a Deltaic node"),
        ("UNKNOWN", "Stream removed", "UNKNOWN", "Stream removed; is this a Deltaic node"),
        ("INTERNAL", "one\nand\r\ntwo", "INTERNAL", "one and two; is this"),
    ],
)
def test_an_error_that_is_none_of_ours_is_one_line_of_advice(code: str, details: str, reason: str, says: str) -> None:
    known = from_rpc_error(rpc_error(grpc.StatusCode[code], details), "edge 10.0.0.1:7410")
    assert (known.code, known.reason) == (Code(code), reason)
    assert re.search(says, str(known)), str(known)
    assert str(known).isprintable()


async def test_what_grpc_answers_in_our_place_is_understood() -> None:
    """The texts are gRPC's own: a version of it with others would fail here."""
    server = Server("127.0.0.1:0")
    server.add(
        inference_pb2_grpc.add_InferenceServiceServicer_to_server,
        inference_pb2_grpc.InferenceServiceServicer(),
        "deltaic.v1.InferenceService",
    )
    async with server.running(grace=0.1), open_channel(f"127.0.0.1:{server.port}", node="caller@test") as channel:
        inference, fleet = inference_pb2_grpc.InferenceServiceStub(channel), fleet_pb2_grpc.FleetServiceStub(channel)
        health, unknown = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="other")
        large = inference_pb2.CountTokensRequest(model="x" * (4 << 20))
        said = []
        for call in (
            fleet.Report(fleet_pb2.ReportRequest(), timeout=5),
            inference.CountTokens(large, timeout=5),
            health.Check(unknown, timeout=5),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            said.append(from_rpc_error(caught.value, "edge").message)
    assert said == [
        "edge does not offer this",
        "the request to edge is too large: at most 4 MiB",
        "edge has no such service",
    ]


async def test_a_web_server_is_no_node() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        async with open_channel(f"127.0.0.1:{port}", node="caller@test") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                await inference_pb2_grpc.InferenceServiceStub(channel).ListModels(
                    inference_pb2.ListModelsRequest(), timeout=5
                )
    assert str(from_rpc_error(caught.value, "edge")) == "no answer from edge; is this a Deltaic node?"
