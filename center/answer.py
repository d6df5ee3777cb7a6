"""What the center answers itself: requests that edges pass on, with any published revision."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from center.catalog import Catalog
from center.errors import SensitiveNotAllowed
from center.hot import HotModels
from center.records import Revision
from deltaic.engine import relay
from deltaic.engine.listing import listed
from deltaic.names import RevisionName, parse_target
from deltaic.transfer.threads import in_thread
from deltaic.v1 import inference_pb2

_NOT_SENSITIVE = (inference_pb2.SENSITIVITY_UNSPECIFIED, inference_pb2.SENSITIVITY_PUBLIC)

_Stream = AsyncGenerator[inference_pb2.GenerateResponse, None]


class Answers:
    """Resolves what a request names once, then uses the revision."""

    def __init__(self, catalog: Catalog, hot: HotModels) -> None:
        self._catalog = catalog
        self._hot = hot

    async def generate(self, request: inference_pb2.GenerateRequest, seconds: float) -> _Stream:
        """Stream an answer. Raises SensitiveNotAllowed, what `HotModels.lease` raises, and what a worker answers."""
        _check(request.sensitivity)
        async with (
            self._hot.lease(await self._resolve(request.model)) as worker,
            aclosing(cast("_Stream", relay.generate(worker, request, seconds))) as stream,
        ):
            async for response in stream:
                yield response

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """Vectors. Raises as `generate` does."""
        _check(request.sensitivity)
        async with self._hot.lease(await self._resolve(request.model)) as worker:
            return await relay.embed(worker, request, seconds)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        async with self._hot.lease(await self._resolve(request.model)) as worker:
            return await relay.count_tokens(worker, request, seconds)

    async def list_models(self, _seconds: float) -> inference_pb2.ListModelsResponse:
        """What is loaded now."""
        return listed(self._hot.serving())

    async def _resolve(self, model: str) -> Revision:
        """Raises BadName, UnknownModel, UnknownChannel, UnknownRevision."""
        target = parse_target(model)
        if isinstance(target, RevisionName):
            return await in_thread(self._catalog.revision, target)
        return (await in_thread(self._catalog.channel, target)).revision


def _check(sensitivity: "inference_pb2.Sensitivity.ValueType") -> None:
    """Raises SensitiveNotAllowed.

    Unlabelled is let through: only an application that chose to call this node itself sends that. Devices and edges
    forward nothing but what is labelled public. A label that this version does not know may mean sensitive.
    """
    if sensitivity not in _NOT_SENSITIVE:
        raise SensitiveNotAllowed(
            "a prompt labelled sensitive, or in a way unknown here, must not be seen by the center",
            hint="send it to the device, which answers itself",
        )
