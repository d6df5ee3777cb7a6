"""Clients that go away, that read slowly, that never finish; deadlines; a node that stops."""

import asyncio
import socket
from contextlib import asynccontextmanager, suppress

import pytest
from played_node import PlayedNode, end, request_bytes, serving, text
from structlog.testing import capture_logs

from deltaic.gateway.budget import Budget
from deltaic.gateway.connection import MOST_HEAD_BYTES
from deltaic.gateway.errors import GatewayBusy
from deltaic.gateway.gateway import Limits
from deltaic.gateway.server import SEND_BUFFER

CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
SOON = 20.0


@asynccontextmanager
async def connected(port, body=None, *, receive_buffer=None):
    """A client that has sent a request and does with the answer what the test says."""
    line = socket.socket()
    if receive_buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=line, limit=1024)
    if body is not None:
        writer.write(request_bytes(port, body))
        await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(SOON):
        await event.wait()


async def settled(count) -> int:
    """The value of `count()` once it no longer grows."""
    before, now = -1, count()
    while now != before:
        await asyncio.sleep(0.2)
        before, now = now, count()
    return now


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_client_that_leaves_while_the_node_thinks_ends_the_work(node, face, body):
    node.waits = True
    async with connected(face.port, body):
        await soon(node.began)
        assert not node.closed.is_set()
    await soon(node.closed)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_client_that_leaves_while_the_node_writes_ends_the_work(node, face, body):
    node.pieces, node.endless = [], "word "
    async with connected(face.port, body) as (reader, _):
        if body is STREAM:
            await reader.readuntil(b"word ")
        await soon(node.began)
    await soon(node.closed)
    assert (await face.send("GET", "/healthz")).status == 200


async def test_a_client_that_leaves_before_its_body_is_complete_asks_for_nothing(node, face):
    async with connected(face.port) as (_, writer):
        writer.write(request_bytes(face.port, CHAT)[:-5])
        await writer.drain()
    assert (await face.send("GET", "/healthz")).status == 200
    assert node.requests == []


async def test_a_slow_reader_makes_the_node_wait_and_grows_nothing(node, face):
    node.pieces, node.endless = [], "x" * 1_000
    async with connected(face.port, STREAM, receive_buffer=4096) as (reader, _):
        await reader.readexactly(100)
        sent = await settled(lambda: node.sent)
        # What is on its way: the buffers of the two sockets, and 64 KiB of the server.
        assert sent * 1_000 < 2 * SEND_BUFFER + (256 << 10)
        assert not node.closed.is_set()
        async with asyncio.timeout(SOON):
            while node.sent == sent:
                await reader.readexactly(10_000)
    await soon(node.closed)


async def test_a_reader_that_stops_is_dropped_at_its_deadline(node):
    node.pieces, node.endless = [], "x" * 1_000
    async with (
        serving(node, Limits(seconds=1.0)) as face,
        connected(face.port, STREAM, receive_buffer=4096) as (reader, _),
    ):
        await soon(node.closed)
        assert not face.gateway._open
        read = b""
        async with asyncio.timeout(SOON):
            while more := await reader.read(1 << 16):
                read = read[-16:] + more
        assert not read.endswith(b"0\r\n\r\n")


async def test_one_that_does_not_read_is_dropped_also_when_it_is_the_node_that_is_late(node):
    async def large_then_nothing(_request, _seconds):
        yield text("x" * 4_000_000)
        try:
            await asyncio.Event().wait()
        finally:
            node.closed.set()

    node.generate = large_then_nothing
    with capture_logs() as logs:
        async with (
            serving(node, Limits(seconds=0.5)) as face,
            connected(face.port, STREAM, receive_buffer=4096) as (reader, _),
            asyncio.timeout(SOON),
        ):
            while not any(line["event"] == "http.served" for line in logs):
                await asyncio.sleep(0.02)
            read = 0
            with suppress(ConnectionError):
                while more := await reader.read(1 << 16):
                    read += len(more)
            assert read < 4_000_000
    assert node.closed.is_set()


async def test_a_deadline_is_an_error_where_nothing_was_said_and_an_event_where_something_was():
    silent = PlayedNode(waits=True)
    async with serving(silent, Limits(seconds=0.2)) as face:
        answer = await face.chat()
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        assert silent.closed.is_set()
    stalled = PlayedNode(pieces=[text("a")], endless="a")
    async with serving(stalled) as face:
        answer = await face.chat(stream=True, headers={"x_deltaic_timeout": "0.2"})
        assert (answer.status, answer.events[-1]["error"]["code"]) == (200, "deadline_exceeded")
        assert stalled.closed.is_set()


async def test_running_answers_may_finish_while_the_node_stops(node):
    gate = asyncio.Event()

    async def slow(_request, _seconds):
        yield text("first")
        await gate.wait()
        yield text(" last")
        yield end()

    node.generate = slow
    async with asyncio.TaskGroup() as group:
        async with serving(node, grace=SOON) as face:
            asking = group.create_task(face.chat(stream=True))
            while not face.gateway._open:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.3, gate.set)
        assert gate.is_set()
    assert asking.result().events[-1] == "[DONE]"


async def test_what_does_not_finish_is_told_that_the_node_stops(node):
    node.pieces, node.endless = [text("a")], "b"
    async with asyncio.TaskGroup() as group:
        async with serving(node, grace=0.1) as face:
            streaming = group.create_task(face.chat(stream=True))
            await soon(node.began)
    assert streaming.result().events[-1]["error"]["code"] == "gateway_stopping"
    assert node.closed.is_set()


async def test_a_stopped_node_lets_go_of_its_port(node):
    async with serving(node) as face, connected(face.port):
        port = face.port
    async with serving(node, listen=f"127.0.0.1:{port}") as again:
        assert (await again.chat()).status == 200


async def test_requests_on_a_connection_that_stays_open_are_answered_one_after_the_other(face):
    async with connected(face.port) as (reader, writer):
        writer.write(request_bytes(face.port, CHAT) * 2)
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert b"Hello you" in await reader.readexactly(length)


async def test_a_head_without_end_is_dropped(face):
    async with connected(face.port) as (reader, writer):
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(1_000):
                writer.write(b"y" * MOST_HEAD_BYTES)
                await writer.drain()
        async with asyncio.timeout(SOON):
            with suppress(ConnectionError):
                assert await reader.read() == b""


async def test_more_requests_than_a_gateway_holds_are_told_to_come_back(node):
    node.waits = True
    async with serving(node, Limits(requests=1)) as face:
        async with connected(face.port, CHAT):
            await soon(node.began)
            answer = await face.chat()
            assert (answer.status, answer.error["code"]) == (429, "gateway_busy")
            assert answer.headers["retry-after"] == "1"
        await soon(node.closed)
        node.waits = False
        assert (await face.chat()).status == 200


async def test_bodies_that_are_held_have_a_bound_together(node):
    node.waits = True
    large = CHAT | {"user": "x" * 600}
    async with serving(node, Limits(body_bytes=1_000, bodies=1)) as face:
        async with connected(face.port, large):
            await soon(node.began)
            assert (await face.post("/v1/chat/completions", large)).status == 429
        await soon(node.closed)
        node.waits = False
        assert (await face.post("/v1/chat/completions", large)).status == 200


def test_a_budget_gives_back_what_was_taken():
    budget = Budget(requests=2, body_bytes=10)
    budget.enter()
    budget.take(10)
    budget.enter()
    with pytest.raises(GatewayBusy):
        budget.take(1)
    with pytest.raises(GatewayBusy):
        budget.enter()
    budget.leave(10)
    budget.enter()
    budget.take(10)


async def test_it_speaks_through_a_unix_socket_and_takes_over_one_that_a_crash_left(node, tmp_path):
    path = tmp_path / "http.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(node, listen=f"unix:{path}"):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request_bytes(0, CHAT))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert not path.exists()
