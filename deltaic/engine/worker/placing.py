"""Loads a model where its plan puts it, and elsewhere when the memory there runs out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.native.backends import BackendChoice, load_backends
from deltaic.engine.placement.gpus import GpuFacts, LlamaGpus
from deltaic.engine.placement.model_facts import ModelFacts, read_facts
from deltaic.engine.placement.plan import Plan, ladder
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.context import DecodeFailed
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.errors import DeltaicError

_log = structlog.get_logger(__name__)
_C = TypeVar("_C")


@dataclass(frozen=True, slots=True)
class Placed:
    """What computes and where the model is. `why` is one line for people."""

    backend: BackendChoice
    plan: Plan

    @property
    def why(self) -> str:
        return f"{self.backend.cpu}: {self.backend.why}; {'; '.join(self.plan.why)}"


def load_placed(
    path: Path,
    settings: EngineSettings,
    log: NativeLog,
    open_context: Callable[[Model], _C],
    gpus: GpuFacts | None = None,
) -> tuple[Model, _C, Placed]:
    """Load the model and open its context, by the first rung of the ladder that finds memory.

    `open_context` should decode a token: some memory is taken only then. It raises WorkerFailed or DecodeFailed, and
    leaves nothing open. Raises WorkerFailed, PlacementRefused, CpuCodeUnusable.
    """
    backend = load_backends(settings.cpu_variant)
    _log.info("backend.chosen", cpu=backend.cpu, features=" ".join(backend.features), why=backend.why)
    rungs = ladder(_facts(path), settings, (gpus or LlamaGpus()).gpus())
    for plan in rungs:
        try:
            model, context = _try(path, log, plan, open_context)
        except (WorkerFailed, DecodeFailed) as error:
            if plan is rungs[-1]:
                raise
            _log.warning("model.found_no_room", gpu_layers=plan.gpu_layers, why=str(error))
            log.errors.clear()
        else:
            placed = Placed(backend, plan)
            _log.info("model.placed", gpu_layers=plan.gpu_layers, layers=plan.layers, why="; ".join(plan.why))
            return model, context, placed
    raise AssertionError("a ladder has a rung")


def _facts(path: Path) -> ModelFacts:
    try:
        return read_facts(path)
    except DeltaicError as error:
        raise WorkerFailed(f"{path.name} cannot be served: {error.message}", hint=error.hint) from None


def _try(path: Path, log: NativeLog, plan: Plan, open_context: Callable[[Model], _C]) -> tuple[Model, _C]:
    model = Model(path, log, plan=plan)
    try:
        return model, open_context(model)
    except BaseException:
        model.close()
        raise
