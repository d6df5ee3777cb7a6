"""InferenceService at the center: answers what edges pass on, with any published revision."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from collections.abc import AsyncIterator
from typing import Any

import grpc

from center.catalog import Catalog
from center.errors import SensitiveNotAllowed
from center.hot import HotModels
from center.records import Revision
from deltaic.engine import relay
from deltaic.names import RevisionName, parse_target
from deltaic.transfer.threads import in_thread
from deltaic.v1 import inference_pb2, inference_pb2_grpc

LONGEST_ANSWER = 600.0
"""Seconds that an answer may take when the caller set no deadline."""

_NOT_SENSITIVE = (inference_pb2.SENSITIVITY_UNSPECIFIED, inference_pb2.SENSITIVITY_PUBLIC)

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Resolves what a request names once, then uses the revision."""

    def __init__(self, catalog: Catalog, hot: HotModels) -> None:
        self._catalog = catalog
        self._hot = hot

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        # Unlabelled is let through: only an application that chose to call this node itself sends that. Devices and
        # edges forward nothing but what is labelled public. A label that this version does not know may mean sensitive.
        if request.sensitivity not in _NOT_SENSITIVE:
            raise SensitiveNotAllowed(
                "a prompt labelled sensitive, or in a way unknown here, must not be seen by the center",
                hint="send it to the device, which answers itself",
            )
        async with self._hot.lease(await self._resolve(request.model)) as worker:
            async for response in relay.generate(worker, request, _remaining(context)):
                yield response

    async def CountTokens(
        self, request: inference_pb2.CountTokensRequest, context: Context
    ) -> inference_pb2.CountTokensResponse:
        async with self._hot.lease(await self._resolve(request.model)) as worker:
            return await relay.count_tokens(worker, request, _remaining(context))

    async def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        models = [
            inference_pb2.ServedModel(
                model=str(each.revision.of_model), revision=str(each.revision), context_tokens=each.context_tokens
            )
            for each in self._hot.serving()
        ]
        return inference_pb2.ListModelsResponse(models=models)

    async def _resolve(self, model: str) -> Revision:
        """Raises BadName, UnknownModel, UnknownChannel, UnknownRevision."""
        target = parse_target(model)
        if isinstance(target, RevisionName):
            return await in_thread(self._catalog.revision, target)
        return (await in_thread(self._catalog.channel, target)).revision


def _remaining(context: Context) -> float:
    """Seconds until the caller's deadline."""
    remaining = context.time_remaining()
    return LONGEST_ANSWER if remaining is None else max(remaining, 0.0)
