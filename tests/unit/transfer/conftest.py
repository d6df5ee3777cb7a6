"""A loopback server for servicers of these tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest

from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.v1 import content_pb2_grpc

Serve = Callable[[content_pb2_grpc.ContentServiceServicer], AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture
def serve() -> Serve:
    """A context in which a ContentService listens; gives a channel to it."""

    @asynccontextmanager
    async def serving(servicer: content_pb2_grpc.ContentServiceServicer) -> AsyncIterator[grpc.aio.Channel]:
        server = Server("127.0.0.1:0")
        server.add(content_pb2_grpc.add_ContentServiceServicer_to_server, servicer, "deltaic.v1.ContentService")
        async with server.running(grace=0.1):
            channel = open_channel(f"127.0.0.1:{server.port}", node="reader@test")
            try:
                yield channel
            finally:
                await channel.close()

    return serving
