"""InferenceService of the device: messages in, domain calls, messages out."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from deltaic.v1 import inference_pb2, inference_pb2_grpc
from device.answer import Answers

DEFAULT_SECONDS = 120.0
"""The deadline of a call that came without one."""

_Context = grpc.aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Only Generate may ask another node; texts to embed or to count and the list of models never leave."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: _Context
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        async with aclosing(self._answers.generate(request, _seconds(context))) as stream:
            async for response in stream:
                yield response

    async def Embed(self, request: inference_pb2.EmbedRequest, context: _Context) -> inference_pb2.EmbedResponse:
        return await self._answers.embed(request, _seconds(context))

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: _Context
    ) -> inference_pb2.CountTokensResponse:
        return await self._answers.count_tokens(request, _seconds(context))

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002  # gRPC hands over both
        context: _Context,
    ) -> inference_pb2.ListModelsResponse:
        return await self._answers.list_models(_seconds(context))


def _seconds(context: _Context) -> float:
    remaining = context.time_remaining()
    return DEFAULT_SECONDS if remaining is None else remaining
