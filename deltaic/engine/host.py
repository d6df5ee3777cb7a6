"""All workers of a node: which key is answered by which revision, and how one revision takes over from another.

A switch is blue-green: the new worker is started and has decoded a token before the key moves to it; the old one is
drained and stopped after that. Keys that mean the same revision share a worker.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from deltaic.engine.adapters import adapters_in
from deltaic.engine.errors import NotServed, WorkerStopping
from deltaic.engine.memory_budget import MemoryBudget
from deltaic.engine.relay import LeasedWorker
from deltaic.engine.settings import EngineSettings
from deltaic.engine.supervisor import MAX_SOCKET_BYTES, Worker
from deltaic.engine.worker_process import WorkerSpec
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName

_log = structlog.get_logger(__name__)
_SOCKET_NAME_BYTES = 24


@dataclass(frozen=True, slots=True)
class Served:
    """A key and the revision that answers it now."""

    key: str
    revision: RevisionName
    context_tokens: int
    memory_bytes: int
    adapters: tuple[str, ...] = ()


@dataclass(slots=True)
class _Hosted:
    worker: Worker
    revision: RevisionName
    keys: set[str] = field(default_factory=set)


class ModelHost:
    """Serves revisions under keys (channel names, mostly). Everything runs on one event loop."""

    def __init__(
        self,
        run_dir: Path,
        settings: EngineSettings,
        node: str,
        role: str,
        *,
        log_level: str = "info",
        adapters: Path | None = None,
    ) -> None:
        """`run_dir` is made when missing; where its name is too long for sockets, a temporary folder stands in.

        `adapters` is a folder of LoRA adapters, MODEL/NAME.gguf, that are loaded with their models.
        """
        self._run_dir = run_dir
        self._temporary: Path | None = None
        self._settings = settings
        self._budget = MemoryBudget(settings.memory_bytes)
        self._node = node
        self._role = role
        self._log_level = log_level
        self._adapter_folder = adapters
        self._adapters: dict[str, dict[str, Path]] = {}
        self._by_key: dict[str, _Hosted] = {}
        self._by_revision: dict[RevisionName, _Hosted] = {}
        self._key_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._revision_locks: defaultdict[RevisionName, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._retiring: set[asyncio.Task[None]] = set()
        self._started = 0
        self._closed = False

    async def serve(self, key: str, revision: RevisionName, path: Path) -> float:
        """Answer `key` with `revision`, whose GGUF file is at `path`; seconds until the switch, 0.0 when it already is.

        What answered before goes on until the switch, and after a failure. Raises WorkerFailed.
        """
        async with self._key_locks[key]:
            current = self._by_key.get(key)
            if current is not None and current.revision == revision:
                return 0.0
            started = time.monotonic()
            async with self._revision_locks[revision]:
                hosted = self._by_revision.get(revision) or await self._start(revision, path)
                hosted.keys.add(key)  # from here on another key that leaves does not take the worker along
                try:
                    await self._bring_adapters(hosted, key)
                    self._check_open()
                except BaseException:
                    self._leave(hosted, key)
                    raise
                # From here to the end of the block nothing is awaited: the switch is one moment of the loop.
                self._by_revision[revision] = hosted
                self._by_key[key] = hosted
                if current is not None:
                    self._leave(current, key)
            seconds = time.monotonic() - started
            _log.info("model.switched", key=key, revision=str(revision), seconds=round(seconds, 3))
            return seconds

    @asynccontextmanager
    async def lease(self, key: str | RevisionName) -> AsyncIterator[LeasedWorker]:
        """Hold the worker of a key or of a revision while it answers. Raises NotServed.

        The lease is counted before anything is awaited, so that a switch cannot come between.
        """
        hosted = self._by_revision.get(key) if isinstance(key, RevisionName) else self._by_key.get(key)
        if hosted is None and isinstance(key, str) and "/revisions/" in key:
            hosted = self._by_revision.get(RevisionName.parse(key))
        if hosted is None:
            raise NotServed(f"{key} is not served by this node", hint="`deltaic models` lists what is")
        with hosted.worker.lease():
            yield LeasedWorker(hosted.worker, hosted.revision)

    def serving(self) -> list[Served]:
        """What is served now, by key."""
        return [
            Served(
                key,
                hosted.revision,
                hosted.worker.context_tokens,
                hosted.worker.memory_bytes,
                hosted.worker.adapters,
            )
            for key, hosted in sorted(self._by_key.items())
        ]

    def workers(self) -> list[Worker]:
        """Those that answer some key now; any thread may ask."""
        return [hosted.worker for hosted in list(self._by_revision.values())]

    async def load_adapter(self, key: str, name: str, path: Path) -> None:
        """Let requests for `key` name the LoRA adapter in this file, an absolute path, through restarts and switches.

        Raises NotServed, RemoteError with the worker's reason.
        """
        async with self._key_locks[key], self.lease(key) as leased:
            await leased.worker.load_adapter(name, path)
            self._adapters.setdefault(key, {})[name] = path

    async def unload_adapter(self, key: str, name: str) -> None:
        """Refuse it to further requests. Raises NotServed, RemoteError with the worker's reason."""
        async with self._key_locks[key], self.lease(key) as leased:
            self._adapters.get(key, {}).pop(name, None)
            await leased.worker.unload_adapter(name)

    async def release(self, key: str) -> None:
        """Stop answering a key; return when its worker, if no other key needs it, is drained and gone."""
        async with self._key_locks[key]:
            hosted = self._by_key.pop(key, None)
            self._adapters.pop(key, None)
            retiring = self._leave(hosted, key) if hosted is not None else None
        if retiring is not None:
            await asyncio.shield(retiring)

    async def close(self) -> None:
        """Drain and stop everything; nothing can be served afterwards."""
        self._closed = True
        for key in list(self._by_key):
            self._leave(self._by_key.pop(key), key)
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    async def _start(self, revision: RevisionName, path: Path) -> _Hosted:
        self._check_open()
        self._started += 1
        name = f"w{self._started}"  # taken before anything is awaited: another start may come in between
        spec = WorkerSpec(revision, path, self._node, self._role, self._settings, self._log_level)
        worker = Worker(spec, await asyncio.to_thread(self._sockets), name, self._budget)
        await worker.start()
        try:
            self._check_open()
        except WorkerStopping:
            await worker.stop()
            raise
        return _Hosted(worker, revision)

    async def _bring_adapters(self, hosted: _Hosted, key: str) -> None:
        """Load what the folder has for the model and what the key was given; one that fails stops no switch."""
        found = await asyncio.to_thread(adapters_in, self._adapter_folder, hosted.revision.model)
        for name, path in (found | self._adapters.get(key, {})).items():
            if name in hosted.worker.adapters:
                continue
            try:
                await hosted.worker.load_adapter(name, path)
            except DeltaicError as error:
                _log.error("adapter.not_loaded", name=name, reason=error.reason, why=error.message)  # one line

    def _check_open(self) -> None:
        if self._closed:
            raise WorkerStopping("this node is stopping")

    def _leave(self, hosted: _Hosted, key: str) -> asyncio.Task[None] | None:
        """Take a key off a worker; the task that retires it when that was the last one."""
        hosted.keys.discard(key)
        if hosted.keys:
            return None
        self._by_revision.pop(hosted.revision, None)
        task = asyncio.create_task(hosted.worker.stop(self._settings.drain_timeout), name=f"retire {hosted.revision}")
        self._retiring.add(task)
        task.add_done_callback(self._retired)
        return task

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("worker.stop_failed", why=str(task.exception()))

    def _sockets(self) -> Path:
        """A private folder whose sockets' names fit into a socket address."""
        if len(os.fsencode(self._run_dir.absolute())) + _SOCKET_NAME_BYTES <= MAX_SOCKET_BYTES:
            self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._run_dir.absolute()
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="deltaic-"))
        return self._temporary
