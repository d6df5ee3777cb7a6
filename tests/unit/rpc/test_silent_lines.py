"""Lines that die without a word: nothing is closed, nothing arrives any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from deltaic.rpc import keepalive
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.v1 import inference_pb2, inference_pb2_grpc


class Thinking(inference_pb2_grpc.InferenceServiceServicer):
    """Says one word, then nothing for a long time."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
        try:
            yield inference_pb2.GenerateResponse(text="well")
            await asyncio.sleep(60)
        finally:
            self.ended.set()


class Cable:
    """Passes bytes on until it is pulled; then it keeps both ends open and passes nothing."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.whole = asyncio.Event()
        self.whole.set()
        self.port = 0
        self.pumps: list[asyncio.Task[None]] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        self.pumps += [
            asyncio.create_task(self.pump(reader, far_writer)),
            asyncio.create_task(self.pump(far_reader, writer)),
        ]

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self.whole.wait()
                writer.write(data)
        except ConnectionError:
            return  # what was written when the other end had hung up
        finally:
            writer.close()


@asynccontextmanager
async def talking(node: Thinking) -> AsyncIterator[tuple[Cable, Any]]:
    """A call over a cable, whose first word has arrived."""
    server = Server("127.0.0.1:0")
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, node, "deltaic.v1.InferenceService")
    async with server.running(grace=0):
        cable = Cable(server.port)
        listening = await asyncio.start_server(cable.connected, "127.0.0.1", 0)
        channel = open_channel(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}", node="caller@test")
        try:
            call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(
                inference_pb2.GenerateRequest(), timeout=40
            )
            await call.read()
            yield cable, call
        finally:
            await channel.close()
            listening.close()
            for pump in cable.pumps:
                pump.cancel()
            await asyncio.gather(*cable.pumps, return_exceptions=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "EVERY_MS", 150)
    monkeypatch.setattr(keepalive, "ANSWER_WITHIN_MS", 500)


async def test_a_quiet_call_on_a_whole_line_goes_on() -> None:
    async with talking(Thinking()) as (_, call):
        await asyncio.sleep(2)  # a dozen pings
        assert not call.done()


async def test_the_client_of_a_quiet_call_notices_that_the_line_is_dead() -> None:
    async with talking(Thinking()) as (cable, call):
        await asyncio.sleep(1)
        cable.whole.clear()
        with pytest.raises(grpc.RpcError) as caught:
            async with asyncio.timeout(10):
                await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_server_frees_what_a_vanished_client_held() -> None:
    node = Thinking()
    async with talking(node) as (cable, _):
        cable.whole.clear()
        async with asyncio.timeout(10):
            await node.ended.wait()
