"""InferenceService at the center: messages in, domain calls, messages out."""

# ruff: noqa: ARG002  # gRPC passes a request to every method

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from center.answer import Answers
from deltaic.v1 import inference_pb2, inference_pb2_grpc

LONGEST_ANSWER = 600.0
"""Seconds that an answer may take when the caller set no deadline."""

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        async with aclosing(self._answers.generate(request, _remaining(context))) as pieces:
            async for piece in pieces:
                yield piece

    async def Embed(self, request: inference_pb2.EmbedRequest, context: Context) -> inference_pb2.EmbedResponse:
        return await self._answers.embed(request, _remaining(context))

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: Context
    ) -> inference_pb2.CountTokensResponse:
        return await self._answers.count_tokens(request, _remaining(context))

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        return await self._answers.list_models(_remaining(context))


def _remaining(context: Context) -> float:
    """Seconds until the caller's deadline."""
    remaining = context.time_remaining()
    return LONGEST_ANSWER if remaining is None else max(remaining, 0.0)
