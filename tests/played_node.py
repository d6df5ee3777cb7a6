"""A node that plays what a test tells it, and a client that sees every byte of what the gateway says."""

import asyncio
import http.client
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deltaic.gateway.gateway import Gateway, Limits
from deltaic.gateway.server import HttpServer
from deltaic.v1 import inference_pb2 as pb

REVISION = "models/assistant/revisions/sha256:" + "ab" * 32
CANARY = "models/assistant/revisions/sha256:" + "cd" * 32


def text(piece: str, choice: int = 0, logprobs: Sequence[pb.TokenLogprob] = ()) -> pb.GenerateResponse:
    return pb.GenerateResponse(text=piece, choice=choice, logprobs=logprobs)


def end(choice: int = 0, reason: Any = pb.Completion.FINISH_REASON_STOP, tokens: int = 2, cached: int = 0) -> Any:
    completion = pb.Completion(
        finish_reason=reason,
        usage=pb.Usage(prompt_tokens=7, completion_tokens=tokens, cached_tokens=cached),
        timings=pb.Timings(queue_ms=1, first_token_ms=2, decode_ms=3),
        revision=REVISION,
        answered_by=pb.NODE_ROLE_EDGE,
        node="edge@test",
    )
    return pb.GenerateResponse(completion=completion, choice=choice)


def call(name: str, arguments: str, identifier: str, choice: int = 0) -> pb.GenerateResponse:
    return pb.GenerateResponse(tool_call=pb.ToolCall(id=identifier, name=name, arguments=arguments), choice=choice)


def token(word: bytes, logprob: float, *others: tuple[bytes, float]) -> pb.TokenLogprob:
    candidates = [pb.TokenLogprob.Candidate(token=word, logprob=logprob) for word, logprob in others]
    return pb.TokenLogprob(chosen=pb.TokenLogprob.Candidate(token=word, logprob=logprob), top=candidates)


@dataclass
class PlayedNode:
    """Yields `pieces`, then raises `error`; with `endless`, text for as long as anybody listens."""

    pieces: list[pb.GenerateResponse] = field(default_factory=lambda: [text("Hello"), text(" you"), end()])
    error: Exception | None = None
    endless: str = ""
    waits: bool = False
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    embedded: list[pb.EmbedRequest] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0

    async def generate(self, request: pb.GenerateRequest, seconds: float) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.seconds.append(seconds)
        self.began.set()
        try:
            if self.waits:
                await asyncio.Event().wait()
            for piece in self.pieces:
                yield pb.GenerateResponse.FromString(piece.SerializeToString())
                await asyncio.sleep(0)
            if self.error:
                raise self.error
            while self.endless:
                self.sent += 1
                yield text(self.endless)
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def embed(self, request: pb.EmbedRequest, seconds: float) -> pb.EmbedResponse:
        self.embedded.append(request)
        if self.error:
            raise self.error
        vectors = [pb.EmbedResponse.Embedding(values=[len(word), 0.5]) for word in request.inputs]
        usage = pb.Usage(prompt_tokens=len(request.inputs))
        return pb.EmbedResponse(
            embeddings=vectors, usage=usage, revision=REVISION, answered_by=pb.NODE_ROLE_DEVICE, node="device@test"
        )

    async def count_tokens(self, request: pb.CountTokensRequest, seconds: float) -> pb.CountTokensResponse:
        if self.error:
            raise self.error
        return pb.CountTokensResponse(tokens=len(request.prompt.split()), context_tokens=2048)

    async def list_models(self, seconds: float) -> pb.ListModelsResponse:
        if self.error:
            raise self.error
        rows = [
            ("models/assistant/channels/canary", CANARY),
            ("models/assistant/channels/stable", REVISION),
            ("", REVISION),
        ]
        models = [
            pb.ServedModel(model="models/assistant", channel=channel, revision=revision, context_tokens=2048)
            for channel, revision in rows
        ]
        return pb.ListModelsResponse(models=models)


@asynccontextmanager
async def serving(
    node: PlayedNode, limits: Limits | None = None, *, grace: float = 0, listen: str = "127.0.0.1:0", **more: Any
) -> AsyncIterator["Face"]:
    gateway = Gateway(node, limits, **more)
    server = HttpServer(gateway, listen)
    async with server.running(grace=grace):
        yield Face(server.port, gateway)


@dataclass
class Answer:
    """What came back, as bytes and as what they mean."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> Any:
        assert set(self.json) == {"error"}
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """What a stream said: a dictionary for each event, "[DONE]" last."""
        found = []
        for block in self.raw.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            if lines:
                data = lines["data"]
                found.append(data if data == "[DONE]" else json.loads(data) | {"event": lines.get("event")})
        return found


@dataclass
class Face:
    """A gateway that listens."""

    port: int
    gateway: Gateway

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self._send, method, path, body, fields)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, raw, **({"content_type": "application/json"} | headers))

    async def chat(self, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.post("/v1/chat/completions", body, **(headers or {}))

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())
        finally:
            connection.close()


def floats_of(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def request_bytes(port: int, body: Any, path: str = "/v1/chat/completions") -> bytes:
    """A request as it goes over the line."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw
