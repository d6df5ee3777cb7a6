"""Keeps one worker answering: starts it, sees it die, starts it again with growing pauses, stops it after a drain."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import structlog

from deltaic.engine.errors import WorkerRestarting, WorkerStopping
from deltaic.engine.worker_process import WorkerProcess, WorkerSpec
from deltaic.errors import DeltaicError
from deltaic.v1 import inference_pb2_grpc

_log = structlog.get_logger(__name__)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_STEADY_SECONDS = 30.0
MAX_SOCKET_BYTES = 100


class Worker:
    """One revision, answered by one process at a time. All methods belong to the loop that called `start`."""

    def __init__(self, spec: WorkerSpec, run_dir: Path, name: str) -> None:
        """`run_dir` holds the sockets; `name` is unique in it and short."""
        self._spec = spec
        self._run_dir = run_dir
        self._name = name
        self._incarnation = 0
        self._process: WorkerProcess | None = None
        self._ready = asyncio.Event()
        self._down = asyncio.Event()
        self._no_leases = asyncio.Event()
        self._no_leases.set()
        self._leases = 0
        self._stopping = False
        self._watch: asyncio.Task[None] | None = None
        self._last_end = ""

    @property
    def spec(self) -> WorkerSpec:
        return self._spec

    @property
    def stopping(self) -> bool:
        """Whether `stop` has ended the process, or is about to."""
        return self._stopping

    @property
    def leases(self) -> int:
        """Answers running now."""
        return self._leases

    @property
    def pid(self) -> int:
        """Process id of the incarnation that serves; 0 while there is none."""
        return self._process.pid if self._process and self._process.alive else 0

    @property
    def context_tokens(self) -> int:
        return self._process.context_tokens if self._process else 0

    @property
    def memory_bytes(self) -> int:
        """Resident memory, with the pages of the model file that are mapped; 0 while no process runs."""
        with contextlib.suppress(psutil.Error):
            if self.pid:
                return int(psutil.Process(self.pid).memory_info().rss)
        return 0

    async def start(self) -> None:
        """Return when it serves; from then on it is kept alive. Raises WorkerFailed."""
        await self._start_process()
        self._watch = asyncio.create_task(self._keep_alive(), name=f"watch {self._name}")

    async def ready(self, remaining: float) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        """The stub of the incarnation that serves; waits for a restart, at most `remaining` seconds.

        Raises WorkerRestarting, WorkerStopping.
        """
        try:
            async with asyncio.timeout(remaining):
                await self._ready.wait()
        except TimeoutError:
            raise WorkerRestarting(
                f"the worker for {self._spec.revision.of_model} is being started again",
                hint="send the request again in a few seconds",
                last_end=self._last_end,
            ) from None
        if self._stopping or self._process is None:
            raise WorkerStopping("the worker is stopping", hint="send the request again")
        return self._process.stub

    async def notice_death(self) -> None:
        """After a lost connection: return when the process is known to be gone, so that `ready` waits for the next.

        Returns after a second when the process lives on.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._down.wait()

    def stub(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        """The stub as it is now. Raises WorkerRestarting when nothing serves."""
        if self._process is None or not self._ready.is_set():
            raise WorkerRestarting("the worker is being started again", hint="send the request again in a few seconds")
        return self._process.stub

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold off `stop` while an answer runs. Counted before anything is awaited."""
        self._leases += 1
        self._no_leases.clear()
        try:
            yield
        finally:
            self._leases -= 1
            if not self._leases:
                self._no_leases.set()

    async def stop(self, drain: float = 0.0) -> None:
        """Wait at most `drain` seconds for leases, then end the process. Once."""
        try:
            if drain > 0 and self.pid:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(drain):
                        await self._no_leases.wait()
        finally:
            self._stopping = True
            self._ready.set()
            if self._leases:
                _log.warning("worker.cut_off", revision=str(self._spec.revision), answers=self._leases)
            await asyncio.shield(self._end())

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._process is not None:
            await self._process.terminate()
        _log.info("worker.stopped", revision=str(self._spec.revision))

    async def _start_process(self) -> None:
        self._incarnation += 1
        process = WorkerProcess(self._spec, self._run_dir / f"{self._name}.{self._incarnation}")
        started = time.monotonic()
        await process.start()
        self._process = process
        self._down.clear()
        self._ready.set()
        seconds = round(time.monotonic() - started, 3)
        _log.info("worker.ready", revision=str(self._spec.revision), worker=process.pid, seconds=seconds)

    async def _keep_alive(self) -> None:
        """See the process die, start it again; the pause doubles while starts or short lives follow each other."""
        pause = _FIRST_PAUSE
        while True:
            assert self._process is not None
            served_since = time.monotonic()
            self._last_end = await self._process.wait()
            self._ready.clear()
            self._down.set()
            _log.error("worker.died", revision=str(self._spec.revision), why=self._last_end)
            if time.monotonic() - served_since > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            await self._process.release()
            pause = await self._restart(pause)

    async def _restart(self, pause: float) -> float:
        """Try until it serves; the pause before the next death's restart."""
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                await self._start_process()
            except Exception as error:  # noqa: BLE001  # whatever it was, nobody else would start this worker again
                self._last_end = (
                    error.message if isinstance(error, DeltaicError) else f"{type(error).__name__}: {error}"
                )
                _log.error("worker.restart_failed", why=self._last_end, pause=pause)  # one line
            else:
                return pause
