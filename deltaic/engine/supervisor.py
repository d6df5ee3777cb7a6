"""Keeps one worker answering: starts it, sees it die or hang, starts it again with growing pauses, stops it.

no room in memory -> NotEnoughMemory        started -> ready -> its heartbeats are listened to
ended -> again after a pause                silent for hang_timeout -> killed -> again after a pause
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import structlog

from deltaic.engine.ending import Cause, Ending
from deltaic.engine.errors import WorkerRestarting, WorkerStopping
from deltaic.engine.memory_budget import MemoryBudget
from deltaic.engine.placement.memory import worker_bytes
from deltaic.engine.pulse import Pulse
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

    def __init__(self, spec: WorkerSpec, run_dir: Path, name: str, budget: MemoryBudget | None = None) -> None:
        """`run_dir` holds the sockets; `name` is unique in it and short; a node's workers share one `budget`."""
        self._spec = spec
        self._budget = budget or MemoryBudget(spec.settings.memory_bytes)
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
        self._last_end = Ending(Cause.DIED, "")
        self._start_seconds = 0.0
        self._pause = _FIRST_PAUSE
        self._adapters: dict[str, Path] = {}
        self.pulse = Pulse()
        self.ends: Counter[Cause] = Counter()

    @property
    def name(self) -> str:
        """Unique in its node."""
        return self._name

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(sorted(self._adapters))

    @property
    def last_end(self) -> Ending:
        """How the last incarnation ended."""
        return self._last_end

    @property
    def retry_after_ms(self) -> str:
        """Milliseconds until a worker that has just ended will probably answer again, for the metadata of an error."""
        return str(round(1000 * (self._pause + self._start_seconds)))

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
                last_end=self._last_end.text,
                retry_after_ms=self.retry_after_ms,
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
            raise WorkerRestarting(
                "the worker is being started again",
                hint="send the request again in a few seconds",
                retry_after_ms=self.retry_after_ms,
            )
        return self._process.stub

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load it now, and into every later incarnation. Raises RemoteError with the worker's reason."""
        await self.ready(self._spec.settings.start_timeout)
        assert self._process is not None
        await self._process.load_adapter(name, path)
        self._adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        """Raises RemoteError with the worker's reason."""
        await self.ready(self._spec.settings.start_timeout)
        assert self._process is not None
        await self._process.unload_adapter(name)
        self._adapters.pop(name, None)

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
        self._budget.give_back(self._name)
        _log.info("worker.stopped", revision=str(self._spec.revision))

    async def _start_process(self) -> None:
        """Raises WorkerFailed, of which NotEnoughMemory is one."""
        self._incarnation += 1
        await self._take_memory()
        try:
            process = WorkerProcess(self._spec, self._run_dir / f"{self._name}.{self._incarnation}")
            started = time.monotonic()
            await process.start()
            await self._load_again(process)
        except BaseException:
            self._budget.give_back(self._name)
            raise
        self._budget.started(self._name)
        self._start_seconds = time.monotonic() - started
        self._process = process
        self._down.clear()
        self._ready.set()
        seconds = round(self._start_seconds, 3)
        _log.info("worker.ready", revision=str(self._spec.revision), worker=process.pid, seconds=seconds)

    async def _load_again(self, process: WorkerProcess) -> None:
        """Adapters of the incarnation before. One that does not come back must not keep the model from answering."""
        for name, path in list(self._adapters.items()):
            try:
                await process.load_adapter(name, path)
            except DeltaicError as error:
                del self._adapters[name]
                _log.error("adapter.lost", name=name, reason=error.reason, why=error.message)  # one line

    async def _take_memory(self) -> None:
        """Raises NotEnoughMemory. A file that is not there is left to the worker, which says so."""
        with contextlib.suppress(OSError):
            needed = await asyncio.to_thread(worker_bytes, self._spec.path, self._spec.settings)
            self._budget.grant(self._name, needed, f"the worker for {self._spec.revision.of_model}")

    async def _keep_alive(self) -> None:
        """See the process end, start it again; the pause doubles while starts or short lives follow each other."""
        while True:
            assert self._process is not None
            served_since = time.monotonic()
            self._last_end = await self._end_of(self._process)
            self._ready.clear()
            self._down.set()
            self.ends[self._last_end.cause] += 1
            why = self._last_end
            _log.error("worker.died", revision=str(self._spec.revision), cause=why.cause, why=why.text)
            if time.monotonic() - served_since > _STEADY_SECONDS:
                self._pause = _FIRST_PAUSE
            await self._process.release()
            self._budget.give_back(self._name)
            await self._restart()

    async def _end_of(self, process: WorkerProcess) -> Ending:
        """Wait for the end of the process, and bring it about when its heart has stopped."""
        limit = self._spec.settings.hang_timeout
        silent = asyncio.create_task(self._silence_of(process, limit), name=f"pulse {self._name}")
        ended = asyncio.create_task(process.wait(), name=f"end {self._name}")
        try:
            await asyncio.wait((silent, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            self._ready.clear()
            _log.error("worker.hung", revision=str(self._spec.revision), worker=process.pid, seconds=limit)
            process.send_kill()
            await ended
            return Ending(Cause.HUNG, f"it made no step and gave no sign of life for {limit:g} seconds, and was killed")
        finally:
            for task in (silent, ended):
                task.cancel()
            await asyncio.gather(silent, ended, return_exceptions=True)

    async def _silence_of(self, process: WorkerProcess, limit: float) -> None:
        """Return when the process is silent. A mistake of ours in listening must not end a worker."""
        try:
            await self.pulse.until_silent(process.worker_stub, limit)
        except Exception:  # noqa: BLE001  # logged
            _log.exception("worker.not_listened_to", revision=str(self._spec.revision))
            await asyncio.Event().wait()

    async def _restart(self) -> None:
        """Try until it serves."""
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            try:
                await self._start_process()
            except Exception as error:  # noqa: BLE001  # whatever it was, nobody else would start this worker again
                why = error.message if isinstance(error, DeltaicError) else f"{type(error).__name__}: {error}"
                self._last_end = Ending(Cause.DIED, why)
                _log.error("worker.restart_failed", why=why, pause=self._pause)  # one line
            else:
                return
