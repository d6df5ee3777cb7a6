"""A plan and the settings as llama.cpp's parameters. Nothing native is imported: the structures are handed in."""

import ctypes
from dataclasses import dataclass
from typing import Any

from deltaic.engine.placement.plan import Plan
from deltaic.engine.settings import EngineSettings

_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type
_FLASH = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}  # llama_split_mode


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Fields of llama_context_params that settings choose."""

    type_k: int
    type_v: int
    flash_attn_type: int

    def apply(self, parameters: Any) -> None:
        parameters.type_k = self.type_k
        parameters.type_v = self.type_v
        parameters.flash_attn_type = self.flash_attn_type


def context_options(settings: EngineSettings) -> ContextOptions:
    """How a context keeps keys and values. Values that are quantised switch flash attention on."""
    flash = "on" if settings.kv_type_v != "f16" else settings.flash_attention
    return ContextOptions(_KV_TYPES[settings.kv_type_k], _KV_TYPES[settings.kv_type_v], _FLASH[flash])


def apply_plan(plan: Plan, parameters: Any, most_devices: int) -> list[Any]:
    """Set the fields of llama_model_params; keep what is returned for as long as the parameters are used.

    Without a layer on a GPU the model gets no GPU at all: llama.cpp would otherwise still compute prompts there, which
    takes the memory that has just run out.
    """
    parameters.n_gpu_layers = plan.gpu_layers
    parameters.split_mode = _SPLIT_MODES[plan.split_mode]
    parameters.main_gpu = plan.main_gpu
    if not plan.gpu_layers:
        nobody = (ctypes.c_void_p * 1)(None)
        parameters.devices = ctypes.cast(nobody, ctypes.c_void_p)
        parameters.split_mode = _SPLIT_MODES["layer"]
        return [nobody]
    split = (ctypes.c_float * max(most_devices, len(plan.tensor_split)))(*plan.tensor_split)
    parameters.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
    return [split]
