"""The GPUs that a model may be put on, and how much of their memory is free."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deltaic.engine.native.ggml import ggml


@dataclass(frozen=True, slots=True)
class Gpu:
    """`index` is its place among those that are used. Memory in bytes."""

    index: int
    name: str
    free: int
    total: int


class GpuFacts(Protocol):
    """Somebody who knows the GPUs."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All that may be used, in the order of their indexes; none where there are none."""
        ...


class LlamaGpus:
    """As llama.cpp sees them: its order is the one that splits are given in. Backends must be loaded before.

    Asking wakes the driver in this process, which costs memory on the GPU: for workers.
    """

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(one.index, one.description or one.name, one.free, one.total) for one in ggml().gpus())


class NvmlGpus:
    """As NVIDIA's management library sees them, through the optional package nvidia-ml-py; none without it or a driver.

    Asking costs no memory on the GPU: for a node that looks before it starts a worker. CUDA may count them in another
    order, so that only their number and the sum of their memory mean the same to a worker.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._visible = environ.get("CUDA_VISIBLE_DEVICES")

    def gpus(self) -> tuple[Gpu, ...]:
        try:
            import pynvml
        except ImportError:
            return ()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:  # no driver
            return ()
        try:
            return self._listed(pynvml)
        except pynvml.NVMLError:  # a GPU that fell off the bus
            return ()
        finally:
            pynvml.nvmlShutdown()

    def _listed(self, nvml: Any) -> tuple[Gpu, ...]:
        gpus: list[Gpu] = []
        for place in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(place)
            if self._is_visible(place, str(nvml.nvmlDeviceGetUUID(handle))):
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                gpus.append(Gpu(len(gpus), str(nvml.nvmlDeviceGetName(handle)), int(memory.free), int(memory.total)))
        return tuple(gpus)

    def _is_visible(self, place: int, uuid: str) -> bool:
        if self._visible is None:
            return True
        named = [word.strip() for word in self._visible.split(",")]
        return str(place) in named or any(word and uuid.startswith(word) for word in named)
