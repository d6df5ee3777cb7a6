"""InferenceService of the edge: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from deltaic.gateway.answering import Answering
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from edge.branch import hops

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, answers: Answering, default_seconds: float) -> None:
        """`default_seconds` is the deadline of a call that came without one."""
        self._answers = answers
        self._default_seconds = default_seconds

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: _Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        hops.enter(context.invocation_metadata())
        async with aclosing(self._answers.generate(request, self._seconds(context))) as pieces:
            async for piece in pieces:
                yield piece

    async def Embed(self, request: inference_pb2.EmbedRequest, context: _Context) -> inference_pb2.EmbedResponse:
        hops.enter(context.invocation_metadata())
        return await self._answers.embed(request, self._seconds(context))

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: _Context
    ) -> inference_pb2.CountTokensResponse:
        return await self._answers.count_tokens(request, self._seconds(context))

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002  # gRPC passes both
        context: _Context,
    ) -> inference_pb2.ListModelsResponse:
        return await self._answers.list_models(self._seconds(context))

    def _seconds(self, context: _Context) -> float:
        remaining = context.time_remaining()
        return self._default_seconds if remaining is None else remaining
