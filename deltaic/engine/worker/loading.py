"""From a file to all that an executor works with. Everything native in it belongs to the thread that loaded it."""

import time
from dataclasses import dataclass
from pathlib import Path

import structlog

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

    def close(self) -> None:
        self.embedder.close()
        self.context.close()
        self.model.close()


def load(path: Path, settings: EngineSettings) -> Parts:
    """Load, then decode two tokens: a worker that says it serves has served.

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
    memory = Memory(settings.slots, settings.prefix_bytes, token_bytes)
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
    )


def _try(context: Context, token: int) -> int:
    """Decode two tokens; the bytes by which a state grows with a token. Raises DecodeFailed."""
    sizes = []
    for position in range(2):
        context.decode(Step((Feed("", 0, position, (token,), sample=True),)))
        sizes.append(context.state_bytes(0))
    context.keep(0, 0)
    return max(sizes[1] - sizes[0], 1)
