"""A node that answers with one model, for the engine bench: engine_node.py FACTS_FILE MODEL SETTINGS

SETTINGS are EngineSettings as JSON. Writes what a client must know to FACTS_FILE, prints the port of its gRPC relay,
and ends at SIGTERM. The relay is the least that a node does: a lease, and the worker's stream passed on.
"""

import asyncio
import hashlib
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate
from deltaic.engine.settings import EngineSettings
from deltaic.names import RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.runtime.logs import configure_logs
from deltaic.v1 import inference_pb2, worker_pb2, worker_pb2_grpc

NODE = "edge@bench"
KEY = "models/bench/channels/stable"
_SECONDS = 120.0
_SERVICE = "deltaic.v1.InferenceService"


class Relay:
    """Generate through the host, and nothing else of InferenceService."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def Generate(  # noqa: N802  # gRPC names it
        self, request: inference_pb2.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        remaining = context.time_remaining()
        async with self._host.lease(KEY) as leased:
            async for response in generate(leased, request, _SECONDS if remaining is None else remaining):
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
    """What the worker says that it computes with, or else what its library says."""
    channel = open_channel(f"unix:{socket}", node=NODE)
    try:
        beats = worker_pb2_grpc.WorkerServiceStub(channel).Heartbeat(worker_pb2.HeartbeatRequest(), timeout=10)
        async for beat in beats:
            backend = beat.backend
            return f"{backend.cpu}: {' '.join(backend.features)} ({backend.why})"
    except grpc.aio.AioRpcError:
        pass
    finally:
        await channel.close()
    import llama_cpp

    return str(llama_cpp.llama_print_system_info().decode()).strip(" |")


def socket_in(run: Path) -> Path:
    """Of the only worker."""
    return next(path for path in run.iterdir() if path.is_socket())


async def serve(facts: Path, model: Path, settings: EngineSettings) -> None:
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with tempfile.TemporaryDirectory(prefix="dlt-") as run:
        host = ModelHost(Path(run), settings, NODE, "edge", log_level="error")
        server = Server("127.0.0.1:0")
        server.add(add_relay, Relay(host), _SERVICE)
        try:
            await host.serve(KEY, RevisionName("bench", f"sha256:{digest}"), model)
            socket = await asyncio.to_thread(socket_in, Path(run))
            async with server.running(grace=0.1):
                known = {"worker": str(socket), "relay": server.port, "gateway": 0, "backend": await backend_of(socket)}
                await asyncio.to_thread(facts.write_text, json.dumps(known))
                print(server.port, flush=True)
                await ended.wait()
        finally:
            await host.close()


if __name__ == "__main__":
    configure_logs("error")
    _, _facts, _model, _settings = sys.argv
    asyncio.run(serve(Path(_facts), Path(_model), EngineSettings.model_validate_json(_settings)))
