"""An edge as clients, its operator and a vandal see it: in this process, or in one of its own that can be killed."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deltaic.engine.settings import EngineSettings
from deltaic.errors import DeltaicError
from deltaic.rpc.channel import open_channel
from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import (
    content_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    registry_pb2_grpc,
)
from edge.app import Edge
from edge.config import EdgeSettings

T = 60.0
ENGINE = EngineSettings(slots=2, context_tokens=512, threads=1)
INFERENCE = "deltaic.v1.InferenceService"
PUBLIC = inference_pb2.SENSITIVITY_PUBLIC


@dataclass
class EdgeClient:
    """What clients call."""

    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.inference: Any = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(self.channel)
        self.content: Any = content_pb2_grpc.ContentServiceStub(self.channel)
        self.fleet: Any = fleet_pb2_grpc.FleetServiceStub(self.channel)
        self._health: Any = health_pb2_grpc.HealthStub(self.channel)

    async def serving(self, service: str = INFERENCE) -> bool:
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=T)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def ask(self, model: str, *, seconds: float = T, **fields: Any) -> tuple[str, Any]:
        """The whole answer and its completion. Raises DeltaicError."""
        text, completion = "", None
        try:
            async for response in self.inference.Generate(question(model, **fields), timeout=seconds):
                text += response.text
                if response.HasField("completion"):
                    completion = response.completion
        except grpc.RpcError as error:
            raise from_rpc_error(error, "edge") from None
        assert completion is not None, "an answer without its completion"
        return text, completion

    async def refusal(self, model: str, **fields: Any) -> DeltaicError:
        """The error that a request is answered with."""
        try:
            answer = await self.ask(model, **fields)
        except DeltaicError as error:
            return error
        raise AssertionError(f"answered instead of refused: {answer}")

    async def serves(self, revision: str) -> bool:
        """Whether a channel is answered with this revision."""
        answer = await self.inference.ListModels(inference_pb2.ListModelsRequest(), timeout=T)
        return any(model.channel and model.revision == revision for model in answer.models)

    async def own_state(self) -> Any:
        """The edge's report of the one channel that it follows."""
        nodes = (await self.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=T)).nodes
        return next(node for node in nodes if node.role == inference_pb2.NODE_ROLE_EDGE).models[0]


@dataclass
class EdgeNode(EdgeClient):
    """An edge in this process."""

    edge: Edge = field(kw_only=True)


@asynccontextmanager
async def running_edge(folder: Path, center: str, *channels: str, **settings: Any) -> AsyncIterator[EdgeNode]:
    values: dict[str, Any] = {"name": "edge@test", "listen": "127.0.0.1:0", "engine": ENGINE, "report_seconds": 0.3}
    edge = Edge(EdgeSettings(data_dir=folder, center=center, channels=list(channels), **(values | settings)))
    async with edge.running(), open_channel(f"127.0.0.1:{edge.port}", node="app@test") as channel:
        yield EdgeNode(channel, edge=edge)


class EdgeProcess:
    """An edge in a process of its own. `log` holds what it wrote to stderr, one JSON object a line."""

    def __init__(self, folder: Path, port: int, center: str, *flags: str) -> None:
        self.folder = folder
        self.port = port
        self.log = folder.with_suffix(".log")
        self._flags = ("--data-dir", str(folder), "--listen", f"127.0.0.1:{port}", "--center", center, *flags)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTAIC_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge", "--log-json", "true", "--engine.threads", "1", *self._flags),
                stderr=log,
                stdout=log,
                env=environment,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def children(self) -> list[psutil.Process]:
        """Its workers and its index."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[EdgeClient]:
        async with open_channel(f"127.0.0.1:{self.port}", node="app@test") as channel:
            yield EdgeClient(channel)


def question(model: str, **fields: Any) -> inference_pb2.GenerateRequest:
    values: dict[str, Any] = {
        "messages": [inference_pb2.ChatMessage(role="user", content="Say hello.")],
        "sampling": inference_pb2.Sampling(temperature=0),
        "max_tokens": 8,
        "sensitivity": PUBLIC,
    }
    return inference_pb2.GenerateRequest(model=model, **(values | fields))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def worker_pids(parent: int | None = None) -> list[int]:
    """Worker processes of the edges below a process, by default this one."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if "deltaic.engine.worker" in line and "edge" in line:
            found.append(child.pid)
    return found
