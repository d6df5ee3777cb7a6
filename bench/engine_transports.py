"""How the engine bench asks: OpenAI's chat completions over HTTP, or InferenceService over gRPC.

Both note when each piece of text arrived and nothing more, since they share the cores with what they measure: no event
is parsed but the one that carries the usage, and a request has a connection of its own, as load from many clients has.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from engine_work import Question

from deltaic.v1 import inference_pb2, inference_pb2_grpc

SECONDS = 120.0
"""That one answer may take."""
_TEXT = re.compile(rb'"(?:content|text)":\s*"(?!")')
_DATA = b"data: "


@dataclass(slots=True)
class Answer:
    """What was seen of one answer, filled while it comes. Moments are of `time.monotonic`."""

    question: Question
    sent: float = 0.0
    pieces: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    """As the server counted them, once it is whole; pieces where it does not count."""
    whole: bool = False
    error: str = ""

    @property
    def first_token(self) -> float | None:
        """Seconds from sending to the first piece (TTFT)."""
        return self.pieces[0] - self.sent if self.pieces else None


class Transport(Protocol):
    """A way to a server."""

    async def ask(self, question: Question, answer: Answer) -> None:
        """Fill `answer` until it is whole or has an error; cancelling disconnects."""

    async def close(self) -> None:
        """Nothing is asked afterwards."""


class OpenAI:
    """Chat completions, streamed by server-sent events."""

    def __init__(self, port: int, model: str, *, usage: bool = True, tokens_by_tenant: bool = False) -> None:
        """`usage`: the server understands `stream_options`. `tokens_by_tenant`: tenants are told by bearer tokens."""
        self._port = port
        self._model = model
        self._usage = usage
        self._tokens_by_tenant = tokens_by_tenant

    async def ask(self, question: Question, answer: Answer) -> None:
        request = self._request(question)
        answer.sent = time.monotonic()
        try:
            async with asyncio.timeout(SECONDS), _connection(self._port) as (reader, writer):
                writer.write(request)
                status = await reader.readline()
                headers = await reader.readuntil(b"\r\n\r\n")
                if status.split()[1:2] != [b"200"]:
                    answer.error = f"{status.decode().strip()} {(await reader.read(300)).decode('utf-8', 'replace')}"
                    return
                body = _chunks(reader) if b"transfer-encoding: chunked" in headers.lower() else _blocks(reader)
                await _read_events(body, answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            answer.error = answer.error or f"{type(error).__name__}: {error}"

    async def close(self) -> None:
        """Every question had its own connection."""

    def _request(self, question: Question) -> bytes:
        fields: dict[str, Any] = {
            "model": self._model,
            "messages": question.messages(),
            "max_tokens": question.max_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
            "stream": True,
        }
        if question.forbidden:
            fields["logit_bias"] = {str(token): -100 for token in question.forbidden}
        if self._usage:
            fields["stream_options"] = {"include_usage": True}
        body = json.dumps(fields).encode()
        head = [
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        if self._tokens_by_tenant and question.tenant:
            head.append(f"Authorization: Bearer {question.tenant}")
        return "\r\n".join([*head, "", ""]).encode() + body


class Grpc:
    """InferenceService.Generate at an address that gRPC understands."""

    def __init__(self, target: str, model: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(
            self._channel
        )
        self._model = model

    async def ask(self, question: Question, answer: Answer) -> None:
        request = self._request(question)
        answer.sent = time.monotonic()
        try:
            async for response in self._stub.Generate(request, timeout=SECONDS):
                if response.text:
                    answer.pieces.append(time.monotonic())
                if response.HasField("completion"):
                    used = response.completion.usage
                    answer.prompt_tokens, answer.tokens = used.prompt_tokens, used.completion_tokens
                    answer.cached_tokens, answer.whole = used.cached_tokens, True
        except grpc.aio.AioRpcError as error:
            answer.error = f"{error.code().name}: {error.details()}"

    def _request(self, question: Question) -> inference_pb2.GenerateRequest:
        sampling = inference_pb2.Sampling(
            temperature=question.temperature,
            seed=question.seed,
            logit_bias=dict.fromkeys(question.forbidden, -100.0),
        )
        return inference_pb2.GenerateRequest(
            model=self._model,
            messages=[
                inference_pb2.ChatMessage(role=each["role"], content=each["content"]) for each in question.messages()
            ],
            max_tokens=question.max_tokens,
            sampling=sampling,
            sensitivity=inference_pb2.SENSITIVITY_PUBLIC,
            tenant=question.tenant,
        )

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response that says `Transfer-Encoding: chunked`."""
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _blocks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response that ends with its connection."""
    while block := await reader.read(1 << 16):
        yield block


async def _read_events(body: AsyncIterator[bytes], answer: Answer) -> None:
    left = b""
    async for block in body:
        now = time.monotonic()
        *lines, left = (left + block).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                _take(line[len(_DATA) :].strip(), now, answer)
    answer.tokens = answer.tokens or len(answer.pieces)
    if not answer.whole and not answer.error:
        answer.error = "the stream ended before the answer did"


def _take(event: bytes, now: float, answer: Answer) -> None:
    if event == b"[DONE]":
        answer.whole = True
    elif event.startswith(b'{"error"'):
        answer.error = event[:300].decode("utf-8", "replace")
    elif _TEXT.search(event):
        answer.pieces.append(now)
    elif b'"usage"' in event and (usage := json.loads(event).get("usage")):
        answer.prompt_tokens, answer.tokens = usage["prompt_tokens"], usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
