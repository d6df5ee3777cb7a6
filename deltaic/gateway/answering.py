"""Who answers: what the gateway knows of a node."""

from collections.abc import AsyncGenerator
from typing import Protocol

from deltaic.v1 import inference_pb2


class Answering(Protocol):
    """The inference contract inside a process. The domain objects of the nodes are one, `RemoteNode` is another.

    Every method takes the seconds that the caller has left. What they raise is what the contract says, as DeltaicError.
    """

    def generate(
        self, request: inference_pb2.GenerateRequest, seconds: float
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Stream an answer, each choice ended by its completion. Closing the generator cancels the work behind it."""

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """One vector for each input, in their order."""

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """How long a prompt is for a model."""

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:
        """What the node answers with now."""
