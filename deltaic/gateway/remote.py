"""A node behind a channel, for a gateway that runs in a process of its own."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc

from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc


class RemoteNode:
    """`Answering` over gRPC. Errors keep the code, reason and metadata that the node answered with."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        """`target` names the node for people: "node 127.0.0.1:7410"."""
        self._stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
        self._target = target

    async def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream the node's answer. Raises RemoteError; closing this cancels the call there."""
        call = self._stub.Generate(request, timeout=seconds)
        try:
            async with self._understood():
                async for response in call:
                    yield response
        finally:
            call.cancel()

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        async with self._understood():
            return await self._stub.Embed(request, timeout=seconds)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        async with self._understood():
            return await self._stub.CountTokens(request, timeout=seconds)

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:
        async with self._understood():
            return await self._stub.ListModels(inference_pb2.ListModelsRequest(), timeout=seconds)

    @asynccontextmanager
    async def _understood(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from None
