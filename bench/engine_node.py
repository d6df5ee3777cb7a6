"""A node that answers with one model, for the engine bench: engine_node.py FACTS_FILE MODEL SETTINGS

SETTINGS are EngineSettings as JSON. Writes what a client must know to FACTS_FILE, prints the port of its gRPC relay,
and ends at SIGTERM. What stands before the worker is the least that a node does, a lease and the worker's stream passed
on, and the HTTP face that every node has.
"""

import asyncio
import hashlib
import json
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import grpc

from deltaic.engine.host import ModelHost
from deltaic.engine.listing import listed
from deltaic.engine.relay import count_tokens, embed, generate
from deltaic.engine.settings import EngineSettings
from deltaic.gateway.gateway import Limits
from deltaic.gateway.mounting import http_face
from deltaic.names import RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.runtime.logs import configure_logs
from deltaic.runtime.slices import answer_quickly_on
from deltaic.v1 import inference_pb2, worker_pb2, worker_pb2_grpc

NODE = "edge@bench"
KEY = "models/bench/channels/stable"
_SERVICE = "deltaic.v1.InferenceService"

_Stream = AsyncGenerator[inference_pb2.GenerateResponse, None]


class Answers:
    """`deltaic.gateway.answering.Answering` by the host's only model, whatever the request names."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def generate(self, request: inference_pb2.GenerateRequest, seconds: float) -> _Stream:
        async with (
            self._host.lease(KEY) as leased,
            aclosing(cast("_Stream", generate(leased, request, seconds))) as stream,
        ):
            async for response in stream:
                yield response

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        async with self._host.lease(KEY) as leased:
            return await embed(leased, request, seconds)

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        async with self._host.lease(KEY) as leased:
            return await count_tokens(leased, request, seconds)

    async def list_models(self, seconds: float) -> inference_pb2.ListModelsResponse:  # noqa: ARG002  # nothing is asked
        return listed(self._host.serving())


class Relay:
    """Generate over gRPC, and nothing else of InferenceService."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def Generate(  # noqa: N802  # gRPC names it
        self, request: inference_pb2.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        remaining = context.time_remaining()
        answers = self._answers.generate(request, Limits().seconds if remaining is None else remaining)
        async with aclosing(answers) as responses:
            async for response in responses:
                yield response


def add_relay(servicer: Relay, server: grpc.aio.Server) -> None:
    """Register the one method."""
    method = grpc.unary_stream_rpc_method_handler(
        servicer.Generate,
        request_deserializer=inference_pb2.GenerateRequest.FromString,
        response_serializer=inference_pb2.GenerateResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Generate": method}),))


async def backend_of(socket: Path) -> str:
    """What the worker says that it computes with."""
    channel = open_channel(f"unix:{socket}", node=NODE)
    try:
        beats = worker_pb2_grpc.WorkerServiceStub(channel).Heartbeat(worker_pb2.HeartbeatRequest(), timeout=10)
        async for beat in beats:
            return f"{beat.backend.cpu}: {' '.join(beat.backend.features)} ({beat.backend.why})"
    finally:
        await channel.close()
    return "unknown: the worker sent no heartbeat"


def socket_in(run: Path) -> Path:
    """Of the only worker."""
    return next(path for path in run.iterdir() if path.is_socket())


async def serve(facts: Path, model: Path, settings: EngineSettings) -> None:
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    ended = asyncio.Event()
    answer_quickly_on(asyncio.get_running_loop())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with tempfile.TemporaryDirectory(prefix="dlt-") as run:
        host = ModelHost(Path(run), settings, NODE, "edge", log_level="error")
        server = Server("127.0.0.1:0")
        answers = Answers(host)
        server.add(add_relay, Relay(answers), _SERVICE)
        try:
            await host.serve(KEY, RevisionName("bench", f"sha256:{digest}"), model)
            socket = await asyncio.to_thread(socket_in, Path(run))
            face = http_face(answers, "127.0.0.1:0", Limits(), grace=0.1)
            async with server.running(grace=0.1), face as http_port:
                ways = {"worker": str(socket), "relay": server.port, "gateway": http_port}
                known = ways | {"backend": await backend_of(socket)}
                await asyncio.to_thread(facts.write_text, json.dumps(known))
                print(server.port, flush=True)
                await ended.wait()
        finally:
            await host.close()


if __name__ == "__main__":
    configure_logs("error")
    _, _facts, _model, _settings = sys.argv
    asyncio.run(serve(Path(_facts), Path(_model), EngineSettings.model_validate_json(_settings)))
