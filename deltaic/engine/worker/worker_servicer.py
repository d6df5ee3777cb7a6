"""`WorkerService`: what the supervisor asks of its worker. Not for the network."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import grpc

from deltaic.engine.adapters import NAME
from deltaic.engine.errors import BadAdapter, NoAdapter, NoAdaptersHere
from deltaic.engine.worker.vitals import Vitals
from deltaic.v1 import worker_pb2, worker_pb2_grpc

_USUAL_MS = 500
_LEAST_MS = 20

_Context = grpc.aio.ServicerContext[Any, Any]


class AdapterCommands(Protocol):
    """LoRA adapters of one model. Called on the event loop; the work is done between two steps."""

    async def load(self, name: str, path: Path) -> None:
        """Make it usable; the same file under the same name changes nothing.

        Raises BadAdapter, NoAdapter (no such file), AdapterNameTaken.
        """

    async def unload(self, name: str) -> None:
        """Refuse it to further requests at once, free it after the last that uses it. Raises NoAdapter."""


class WithoutAdapters:
    """The commands of a worker that serves its model as it is."""

    async def load(self, name: str, path: Path) -> None:  # noqa: ARG002  # part of the protocol
        raise NoAdaptersHere(f"this worker loads no adapters, so not {name}")

    async def unload(self, name: str) -> None:
        raise NoAdapter(f"no adapter {name} is loaded")


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """`vitals` are written by the thread that decodes; a heartbeat is sent only when it has beaten since the last."""

    def __init__(self, vitals: Vitals, adapters: AdapterCommands) -> None:
        self._vitals = vitals
        self._adapters = adapters

    async def Heartbeat(
        self,
        request: worker_pb2.HeartbeatRequest,
        context: _Context,  # noqa: ARG002  # part of the signature
    ) -> AsyncIterator[worker_pb2.HeartbeatResponse]:
        pause = max(request.interval_ms or _USUAL_MS, _LEAST_MS) / 1000
        told = -1
        while True:
            beats = self._vitals.beats
            if beats != told:
                told = beats
                yield self._vitals.snapshot()
            await asyncio.sleep(pause)

    async def LoadAdapter(
        self,
        request: worker_pb2.LoadAdapterRequest,
        context: _Context,  # noqa: ARG002
    ) -> worker_pb2.LoadAdapterResponse:
        path = Path(request.path)
        if not NAME.fullmatch(request.name):
            raise BadAdapter(
                f"{request.name[:80]!r} cannot name an adapter",
                hint="use at most 64 of A-Z, a-z, 0-9, '.', '_' and '-'",
            )
        if not path.is_absolute():
            raise BadAdapter(f"{request.path[:200]!r} is not an absolute path")
        if not await asyncio.to_thread(path.is_file):
            raise NoAdapter(f"there is no file {path}")
        await self._adapters.load(request.name, path)
        return worker_pb2.LoadAdapterResponse()

    async def UnloadAdapter(
        self,
        request: worker_pb2.UnloadAdapterRequest,
        context: _Context,  # noqa: ARG002
    ) -> worker_pb2.UnloadAdapterResponse:
        await self._adapters.unload(request.name)
        return worker_pb2.UnloadAdapterResponse()
