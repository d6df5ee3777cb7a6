"""Completions of both kinds: from a body to a whole answer or a stream of events."""

import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from deltaic.gateway.answering import Answering
from deltaic.gateway.bodies import ChatBody, CompletionBody, Sampled
from deltaic.gateway.chunks import ChatChunks, Chunks, Label, TextChunks
from deltaic.gateway.exchange import Exchange
from deltaic.gateway.outcome import Outcome, origin_headers
from deltaic.gateway.parsing import parse
from deltaic.gateway.requests import chat_request, completion_requests
from deltaic.gateway.whole import Choice, Shape, chat_choice, text_choice, whole_body
from deltaic.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of the two kinds of completions."""

    prefix: str
    whole: str
    shape: Shape
    chunks: Callable[..., Chunks]


_CHAT = _Kind("chatcmpl-", "chat.completion", chat_choice, ChatChunks)
_TEXT = _Kind("cmpl-", "text_completion", text_choice, TextChunks)


class Completions:
    """The routes that generate."""

    def __init__(self, answering: Answering, body_bytes: int) -> None:
        self._answering = answering
        self._body_bytes = body_bytes

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions. Raises what `requests`, the exchange and the node have against it."""
        body = parse(ChatBody, await exchange.body(self._body_bytes))
        await self._answer(exchange, _CHAT, body, [chat_request(body, exchange.headers)])

    async def text(self, exchange: Exchange) -> None:
        """POST /v1/completions. Raises as `chat` does."""
        body = parse(CompletionBody, await exchange.body(self._body_bytes))
        await self._answer(exchange, _TEXT, body, completion_requests(body, exchange.headers))

    async def _answer(
        self, exchange: Exchange, kind: _Kind, body: Sampled, requests: Sequence[pb.GenerateRequest]
    ) -> None:
        exchange.facts["model"] = requests[0].model
        label = Label(kind.prefix + uuid.uuid4().hex, int(time.time()), body.model)
        each = body.n or 1
        outcome = Outcome(expected=each * len(requests), choices_each=each)
        async with aclosing(self._pieces(exchange, requests, outcome)) as pieces:
            if body.stream:
                with_usage = body.stream_options is not None and body.stream_options.include_usage
                await _stream(exchange, kind.chunks(label, with_usage=with_usage), pieces, outcome)
            else:
                await _whole(exchange, kind, label, pieces, outcome)
        exchange.facts["completion_tokens"] = outcome.usage()["completion_tokens"]

    async def _pieces(
        self, exchange: Exchange, requests: Sequence[pb.GenerateRequest], outcome: Outcome
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """The answers to all prompts, one after the other, their choices numbered through. Raises AnswerCut."""
        for index, request in enumerate(requests):
            async with aclosing(self._answering.generate(request, exchange.seconds)) as pieces:
                async for piece in pieces:
                    if index:
                        piece.choice += index * outcome.choices_each
                    if piece.HasField("completion"):
                        outcome.add(piece.choice, piece.completion)
                    yield piece
        outcome.check()


async def _stream(
    exchange: Exchange, chunks: Chunks, pieces: AsyncGenerator[pb.GenerateResponse, None], outcome: Outcome
) -> None:
    """The status waits for the first piece, so that whatever is wrong before it is a status and not an event."""
    async for piece in pieces:
        if not exchange.status:
            await exchange.start_stream()
        await exchange.write(chunks.of(piece))
    await exchange.write(chunks.end(outcome), more=False)


async def _whole(
    exchange: Exchange,
    kind: _Kind,
    label: Label,
    pieces: AsyncGenerator[pb.GenerateResponse, None],
    outcome: Outcome,
) -> None:
    choices: defaultdict[int, Choice] = defaultdict(Choice)
    async for piece in pieces:
        choices[piece.choice].add(piece)
    body = whole_body(label, kind.whole, kind.shape, choices, outcome)
    await exchange.answer(200, body, origin_headers(outcome.last))
