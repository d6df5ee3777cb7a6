"""POST /v1/embeddings."""

import base64
import json
import struct
from collections.abc import Sequence

from deltaic.gateway.answering import Answering
from deltaic.gateway.bodies import EmbeddingsBody
from deltaic.gateway.errors import AnswerCut, BadBody
from deltaic.gateway.exchange import Exchange
from deltaic.gateway.outcome import origin, origin_headers
from deltaic.gateway.parsing import parse
from deltaic.gateway.requests import embed_requests
from deltaic.v1 import inference_pb2 as pb

INPUTS_AT_ONCE = 128
"""Vectors of one call: of 8,192 floats each they just fit into the 4 MiB that a message may have."""


class Embeddings:
    """The route that embeds."""

    def __init__(self, answering: Answering, body_bytes: int) -> None:
        self._answering = answering
        self._body_bytes = body_bytes

    async def embed(self, exchange: Exchange) -> None:
        """Raises what the body, the exchange and the node have against it."""
        body = parse(EmbeddingsBody, await exchange.body(self._body_bytes))
        requests = embed_requests(body, exchange.headers, INPUTS_AT_ONCE)
        exchange.facts["model"] = requests[0].model
        answers = []
        for request in requests:
            answer = await self._answering.embed(request, exchange.seconds)
            _check(body, request, answer)
            answers.append(answer)
        await exchange.answer(200, _shown(body, answers), origin_headers(answers[-1]))


def _check(body: EmbeddingsBody, request: pb.EmbedRequest, answer: pb.EmbedResponse) -> None:
    if len(answer.embeddings) != len(request.inputs):
        raise AnswerCut(f"{len(answer.embeddings)} vectors came for {len(request.inputs)} inputs")
    length = len(answer.embeddings[0].values)
    if body.dimensions not in (None, length):
        raise BadBody(
            f"vectors of this model have {length} dimensions", hint="leave dimensions out", param="dimensions"
        )


def _shown(body: EmbeddingsBody, answers: Sequence[pb.EmbedResponse]) -> bytes:
    write = _base64 if body.encoding_format == "base64" else list
    vectors = [vector.values for answer in answers for vector in answer.embeddings]
    data = [{"object": "embedding", "index": index, "embedding": write(each)} for index, each in enumerate(vectors)]
    tokens = sum(answer.usage.prompt_tokens for answer in answers)
    shown = {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "deltaic": origin(answers[-1]),
    }
    return json.dumps(shown).encode()


def _base64(values: Sequence[float]) -> str:
    """Little-endian 32-bit floats, as clients of OpenAI's API read them."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
