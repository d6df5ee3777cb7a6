"""One incarnation of a worker: a child process, its socket, its channel, the log lines that it left.

`start` and everything after it run on one event loop, in the thread whose end the child does not survive.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deltaic.engine.control_group import MemoryGroup
from deltaic.engine.ending import Ending, ending_of
from deltaic.engine.errors import WorkerFailed
from deltaic.engine.settings import EngineSettings
from deltaic.names import RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.status import from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc, worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)
_POLL = 0.01
_TERM_GRACE = 5.0
_CHANNEL_GRACE = 1.0
_ENVIRONMENT = {
    # A crash's backtrace is of no use without symbols, and printing it may start a debugger.
    "GGML_NO_BACKTRACE": "1",
    # Rounds that an OpenMP thread spins at a barrier before it sleeps. libgomp's 300,000 make a step of two threads on
    # two busy cores 5 to 10 times slower than 2,000, which costs next to nothing on idle ones.
    "GOMP_SPINCOUNT": "2000",
}
_FIELDS_OF_ITS_OWN = frozenset({"event", "level", "logger", "timestamp"})
_NAMES_OF_OURS = frozenset({"worker", "exception", "exc_info", "stack_info"})
_CRASH_MARKS = ("GGML_ASSERT", "GGML_ABORT", "terminate called", "what():", "Error:", "error:")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker serves and how. `role` is "center", "edge" or "device"; `log_level` as in NodeSettings."""

    revision: RevisionName
    path: Path
    node: str
    role: str
    settings: EngineSettings
    log_level: str = "info"


class WorkerProcess:
    """Start it once, wait for its end or stop it; a restart is a new object."""

    def __init__(self, spec: WorkerSpec, socket: Path) -> None:
        self._spec = spec
        self._socket = socket
        self._failure = ""
        self._raw: deque[str] = deque(maxlen=20)
        self._process: asyncio.subprocess.Process | None = None
        self._forwarding: asyncio.Task[None] | None = None
        self._channel: grpc.aio.Channel | None = None
        self._group = MemoryGroup(())
        self._kills = 0
        self.context_tokens = 0

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def stub(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        """Calls to this incarnation; only after `start`."""
        assert self._channel is not None
        return inference_pb2_grpc.InferenceServiceStub(self._channel)

    @property
    def worker_stub(self) -> "worker_pb2_grpc.WorkerServiceAsyncStub":
        """What only a supervisor asks; only after `start`."""
        assert self._channel is not None
        return worker_pb2_grpc.WorkerServiceStub(self._channel)

    async def start(self) -> None:
        """Return when the worker serves. Raises WorkerFailed; no process is left behind then."""
        self._socket.unlink(missing_ok=True)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=_ENVIRONMENT | os.environ,
                start_new_session=True,
            )
            self._forwarding = asyncio.create_task(self._forward())
            self._note_memory_group()
            await self._wait_until_serving()
            self._note_memory_group()  # a launcher may have moved it meanwhile
        except OSError as error:
            await asyncio.shield(self.kill())
            raise WorkerFailed(f"no worker process could be started: {error}") from error
        except BaseException:
            await asyncio.shield(self.kill())
            raise

    async def load_adapter(self, name: str, path: Path) -> None:
        """Raises RemoteError with the worker's reason."""
        request = worker_pb2.LoadAdapterRequest(name=name, path=str(path))
        await self._told(self.worker_stub.LoadAdapter(request, timeout=self._spec.settings.start_timeout))

    async def unload_adapter(self, name: str) -> None:
        """Raises RemoteError with the worker's reason."""
        request = worker_pb2.UnloadAdapterRequest(name=name)
        await self._told(self.worker_stub.UnloadAdapter(request, timeout=self._spec.settings.start_timeout))

    async def _told(self, call: Awaitable[object]) -> None:
        try:
            await call
        except grpc.RpcError as error:
            raise from_rpc_error(error, f"the worker for {self._spec.revision.of_model}") from None

    async def wait(self) -> Ending:
        """Wait for the end of the process; how it ended."""
        assert self._process is not None
        assert self._forwarding is not None
        status = await self._process.wait()
        await self._forwarding
        return self._ending(status)

    async def terminate(self) -> None:
        """SIGTERM, and SIGKILL when that has not helped."""
        if self._process is None:
            return
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TERM_GRACE):
                    await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL at once, then release what belongs to the process."""
        self.send_kill()
        await self.release()

    def send_kill(self) -> None:
        """SIGKILL, which ends a stopped process too; `wait` says when it has."""
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def release(self) -> None:
        """After the end of the process: reap it, end its log, close the channel, remove the socket."""
        if self._process is not None:
            await self._process.wait()
        if self._forwarding is not None:
            await self._forwarding
        if self._channel is not None:
            # Calls in flight have lost their connection and are about to say so; closing at once would cancel them.
            await self._channel.close(_CHANNEL_GRACE)
        self._socket.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        spec = self._spec
        return [
            *(sys.executable, "-m", "deltaic.engine.worker"),
            *("--model", str(spec.path), "--revision", str(spec.revision), "--socket", str(self._socket)),
            *("--node", spec.node, "--role", spec.role, "--parent", str(os.getpid()), "--log-level", spec.log_level),
            *spec.settings.flags(),
        ]

    async def _wait_until_serving(self) -> None:
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._serving())
        try:
            timeout = self._spec.settings.start_timeout
            await asyncio.wait((ended, ready), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                self.context_tokens = ready.result()
                return
            if ended.done():
                assert self._forwarding is not None
                await self._forwarding
                why = self._ending(ended.result()).text
                raise WorkerFailed(f"no worker for {self._spec.revision.of_model}: {why}")
            raise WorkerFailed(
                f"the worker for {self._spec.revision.of_model} was not ready within {timeout:g} seconds",
                hint="raise engine.start_timeout, or use a smaller model",
            )
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)

    async def _serving(self) -> int:
        """Wait for the socket, then for SERVING; the tokens of one slot."""
        while not self._socket.exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(_POLL)
        self._channel = open_channel(f"unix:{self._socket}", node=self._spec.node)
        health = health_pb2_grpc.HealthStub(self._channel)
        timeout = self._spec.settings.start_timeout
        while True:
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return await self._identify()
            except grpc.RpcError as error:
                _log.debug("worker.not_listening", pid=self.pid, why=str(error))
            finally:
                watch.cancel()
            await asyncio.sleep(_POLL)

    async def _identify(self) -> int:
        """See that the process behind the socket is the one wanted; the tokens of one slot. Raises WorkerFailed."""
        timeout = self._spec.settings.start_timeout
        (served,) = (await self.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=timeout)).models
        if served.revision != str(self._spec.revision):
            raise WorkerFailed(f"the worker on {self._socket.name} serves {served.revision}, not {self._spec.revision}")
        return served.context_tokens

    async def _forward(self) -> None:
        """Pass the worker's log on, line by line, until it closes its end."""
        assert self._process is not None
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # a line longer than the buffer: what is left of it is dropped
                continue
            if not line:
                return
            self._take_line(line.decode("utf-8", "replace").rstrip())

    def _take_line(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            if line.strip():
                self._raw.append(line.strip()[:300])
                _log.debug("worker.stderr", pid=self.pid, text=line[:300])
            return
        if fields.get("event") == "worker.failed":
            self._failure = "; ".join(str(fields[key]) for key in ("message", "hint") if fields.get(key))
        emit = {"debug": _log.debug, "warning": _log.warning, "error": _log.error}.get(
            str(fields.get("level")), _log.info
        )
        emit(str(fields.get("event", "worker.log")), worker=self.pid, **_values(fields))

    def _note_memory_group(self) -> None:
        self._group = MemoryGroup.of(self.pid)
        self._kills = self._group.kills()

    def _ending(self, status: int) -> Ending:
        """What a person should read about the end: the worker's own last word, or the crash's."""
        crash = next((line for line in self._raw if any(mark in line for mark in _CRASH_MARKS)), "")
        last = self._failure or crash or (self._raw[-1] if self._raw else "")
        out_of_memory = self._group.kills() > self._kills
        return ending_of(status, last, explained=bool(self._failure), out_of_memory=out_of_memory)


def _values(fields: dict[str, object]) -> dict[str, object]:
    """What the worker logged beside the event, flat, under names that mean nothing to our own log's processors."""
    return {
        f"worker_{name}" if name in _NAMES_OF_OURS else name: value
        if isinstance(value, str | int | float)
        else json.dumps(value)[:2000]
        for name, value in fields.items()
        if name not in _FIELDS_OF_ITS_OWN
    }
