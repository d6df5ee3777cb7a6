"""How much memory a model will take, before it is loaded: of the machine, and of its GPUs."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deltaic.engine.adapters import adapters_in
from deltaic.engine.errors import PlacementRefused
from deltaic.engine.placement.gpus import Gpu
from deltaic.engine.placement.memory import estimate, worker_bytes
from deltaic.engine.placement.model_facts import read_facts
from deltaic.engine.placement.plan import make_plan
from deltaic.engine.settings import EngineSettings
from deltaic.weights.errors import BadLayout, NotGGUF, Truncated
from edge.hot.policy import Room

_MOST_KNOWN = 1024


class Needs:
    """The engine's own estimate, which is an upper bound, and the LoRA adapters that come along."""

    def __init__(self, settings: EngineSettings, adapters: Path | None = None, gpus: Sequence[Gpu] = ()) -> None:
        """`adapters` is the folder that the host loads from; `gpus` those that models may be put on."""
        self._settings = settings
        self._adapters = adapters
        self._learning = threading.Lock()
        self._known: OrderedDict[Path, Room] = OrderedDict()
        # What others have loaded can make room, so that a model is counted with what it would like to have.
        self._gpus = tuple(replace(gpu, free=gpu.total) for gpu in gpus)

    def of(self, path: Path, model: str, size: int) -> Room:
        """Of the model in a file, which never changes; one that is not there counts with its `size` in bytes.

        Reads the disk. For any thread.
        """
        known = self._known.get(path)
        if known is None:
            try:
                known = self._whole(path)
            except OSError:
                return Room(size)
            with self._learning:
                self._known[path] = known
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
        return known + Room(self._adapter_bytes(model))

    def _adapter_bytes(self, model: str) -> int:
        found = 0
        for path in adapters_in(self._adapters, model).values():
            try:
                found += path.stat().st_size
            except OSError:  # gone since the folder was listed
                continue
        return found

    def _whole(self, path: Path) -> Room:
        """Of the worker alone. What is put on GPUs is not counted in the machine's memory. Raises OSError."""
        ram = worker_bytes(path, self._settings)
        if not self._gpus:
            return Room(ram)
        try:
            plan = make_plan(read_facts(path), self._settings, self._gpus)
            moved = estimate(path, self._settings).total - plan.host.total
        except (NotGGUF, Truncated, BadLayout, PlacementRefused):
            return Room(ram)  # loading it will say why
        return Room(ram - max(0, moved), sum(plan.used))


def vram_budget(asked: int, gpus: Sequence[Gpu]) -> int:
    """Bytes of GPU memory for models: what was asked for, or, for 0, what is free now."""
    return asked or sum(gpu.free for gpu in gpus)
