"""From a file to all that an executor works with. Everything native in it belongs to the thread that loaded it."""

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.scheduling.memory import Memory
from deltaic.engine.scheduling.pace import Pace
from deltaic.engine.scheduling.scheduler import Feed, Limits, Scheduler, Step
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.adapters import AdapterShelf
from deltaic.engine.worker.context import Context, DecodeFailed
from deltaic.engine.worker.embedding import Embedder
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.placing import Placed, load_placed
from deltaic.engine.worker.prefix_files import PrefixFiles
from deltaic.engine.worker.states import SlotStates

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """A loaded model that has decoded, and what schedules and serves on it."""

    model: Model
    context: Context
    placed: Placed
    states: SlotStates
    adapters: AdapterShelf
    embedder: Embedder
    scheduler: Scheduler
    prefixes: PrefixFiles | None
    """Where states of prompts outlive this process, if they may."""

    def remember(self) -> None:
        """Take in what an earlier worker of the same revision left."""
        if self.prefixes is not None:
            for prefix in self.prefixes.take(self.scheduler.memory.store_bytes):
                self.states.adopt(prefix, self.scheduler)

    def leave_behind(self) -> None:
        """Write states of prompts for the next worker. A disk that fails costs only them."""
        if self.prefixes is None:
            return
        try:
            written = self.prefixes.save(self.states.known(self.scheduler), self.scheduler.memory.store_bytes)
            _log.info("prefixes.saved", count=written)
        except OSError as error:
            _log.warning("prefixes.not_saved", why=str(error))

    def close(self) -> None:
        self.embedder.close()
        self.context.close()
        self.model.close()


def load(path: Path, settings: EngineSettings, revision: str = "") -> Parts:
    """Load, then decode two tokens: a worker that says it serves has served. `revision` names the file's content.

    Raises WorkerFailed, PlacementRefused, CpuCodeUnusable.
    """
    log = NativeLog()
    log.install()
    started = time.monotonic()
    token_bytes = 1

    def warm(model: Model) -> Context:
        nonlocal token_bytes
        context = Context(model, settings)
        try:
            token_bytes = _try(context, model.first_token)
        except DecodeFailed:
            context.close()
            raise
        return context

    model, context, placed = load_placed(path, settings, log, warm)
    limits = Limits(settings.slots, settings.queue, context.batch_tokens, settings.prefill_chunk, settings.patience)
    all_slots = settings.slots * context.context_tokens * token_bytes
    store_bytes = all_slots if settings.prefix_bytes == "auto" else int(settings.prefix_bytes)
    memory = Memory(settings.slots, store_bytes, token_bytes)
    _log.info(
        "model.loaded",
        file=path.name,
        seconds=round(time.monotonic() - started, 3),
        slots=settings.slots,
        context_tokens=context.context_tokens,
        threads=settings.resolved_threads(),
    )
    return Parts(
        model,
        context,
        placed,
        SlotStates(context),
        AdapterShelf(model, context.pointer, log),
        Embedder(model, settings),
        Scheduler(limits, memory, Pace(settings.gap)),
        _prefix_files(settings, revision),
    )


def _prefix_files(settings: EngineSettings, revision: str) -> PrefixFiles | None:
    """Raises WorkerFailed when the folder cannot be used."""
    if not settings.prefix_dir or not revision:
        return None
    kind = (version("llama-cpp-python"), settings.kv_type_k, settings.kv_type_v, settings.flash_attention)
    try:
        return PrefixFiles(Path(settings.prefix_dir), " ".join((revision, *kind)))
    except OSError as error:
        raise WorkerFailed(
            f"engine.prefix_dir cannot be used: {error}", hint="give a folder that this node may write to, or none"
        ) from None


def _try(context: Context, token: int) -> int:
    """Decode two tokens; the bytes by which a state grows with a token. Raises DecodeFailed."""
    sizes = []
    for position in range(2):
        context.decode(Step((Feed("", 0, position, (token,), sample=True),)))
        sizes.append(context.state_bytes(0))
    context.keep(0, 0)
    return max(sizes[1] - sizes[0], 1)
