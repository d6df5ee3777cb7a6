"""The native context: key-value memory of all slots and one batch. Belongs to one thread.

Each slot has a stream of its own (`kv_unified` is off), so attention looks at one sequence's tokens only.
"""

import ctypes
from collections.abc import Hashable
from typing import Any

import numpy as np

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.placement.options import context_options
from deltaic.engine.scheduling.scheduler import Step
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.model import Model


class DecodeFailed(RuntimeError):
    """llama_decode refused a batch that fits: the context is not to be trusted any more."""


class Context:
    """Runs steps and moves states. Make it, use it and close it on the same thread."""

    def __init__(self, model: Model, settings: EngineSettings) -> None:
        """Raises WorkerFailed when there is not enough memory for the slots."""
        self._native: Any = model.native
        self.batch_tokens = max(settings.batch_tokens, settings.slots)
        per_slot = min(settings.context_tokens, model.trained_context or settings.context_tokens)
        parameters = self._native.llama_context_default_params()
        parameters.n_ctx = per_slot * settings.slots
        parameters.n_seq_max = parameters.n_outputs_max = settings.slots
        parameters.n_outputs_max_per_seq = 1
        parameters.n_batch = parameters.n_ubatch = self.batch_tokens
        parameters.n_threads = parameters.n_threads_batch = settings.resolved_threads()
        parameters.kv_unified = False
        parameters.no_perf = True
        context_options(settings).apply(parameters)
        self.pointer: Any = self._native.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise WorkerFailed(
                f"no room for {settings.slots} slots of {per_slot} tokens",
                hint="lower engine.slots or engine.context_tokens",
            )
        self.context_tokens = per_slot
        self._memory: Any = self._native.llama_get_memory(self.pointer)
        self._batch = Batch(self._native, self.batch_tokens)

    # ---- steps --------------------------------------------------------------------------------------------------

    def decode(self, step: Step) -> dict[Hashable, int]:
        """Run one step; the batch entry whose logits belong to each request that samples. Raises DecodeFailed.

        A batch above its capacity would abort the process, so it is refused here.
        """
        if step.tokens > self.batch_tokens:
            raise DecodeFailed(f"{step.tokens} tokens in a batch of {self.batch_tokens}")
        outputs = self._batch.fill(step)
        status = self._native.llama_decode(self.pointer, self._batch.native)
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status}")
        return outputs

    # ---- what slots hold ----------------------------------------------------------------------------------------

    def keep(self, slot: int, tokens: int) -> int:
        """Forget all but the first `tokens` tokens of a slot; how many are really there.

        Memory that cannot forget a part (a recurrent state, a sliding window that has moved on) forgets all.
        """
        if tokens > 0 and self._native.llama_memory_seq_rm(self._memory, slot, tokens, -1):
            first = self._native.llama_memory_seq_pos_min(self._memory, slot)
            last = self._native.llama_memory_seq_pos_max(self._memory, slot)
            if first == 0 and last == tokens - 1:
                return tokens
        self._native.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def state_bytes(self, slot: int) -> int:
        """What `save` would take for this slot."""
        return int(self._native.llama_state_seq_get_size(self.pointer, slot))

    def save(self, slot: int) -> bytearray:
        """The state of a slot; empty when llama.cpp gives none."""
        state = bytearray(self.state_bytes(slot))
        written = self._native.llama_state_seq_get_data(self.pointer, _view(state), len(state), slot) if state else 0
        return state if written == len(state) else bytearray()

    def load(self, slot: int, state: bytearray) -> bool:
        """Put a state that `save` gave into a slot. False leaves the slot empty."""
        self._native.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if state and self._native.llama_state_seq_set_data(self.pointer, _view(state), len(state), slot):
            return True
        self._native.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def close(self) -> None:
        if self.pointer:
            self._native.llama_free(self.pointer)
            self.pointer = None


class Batch:
    """A llama_batch over arrays of ours, filled by slices."""

    def __init__(self, native: Any, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._slot = np.zeros(capacity, np.int32)
        self._ones = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        pointer = ctypes.POINTER(ctypes.c_int32)
        at = self._slot.ctypes.data
        self._slots = (pointer * capacity)(*(ctypes.cast(at + 4 * entry, pointer) for entry in range(capacity)))
        self.native: Any = native.llama_batch()
        self.native.token = self._token.ctypes.data_as(pointer)
        self.native.pos = self._position.ctypes.data_as(pointer)
        self.native.n_seq_id = self._ones.ctypes.data_as(pointer)
        self.native.seq_id = ctypes.cast(self._slots, ctypes.POINTER(pointer))
        self.native.logits = self._logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(self, step: Step, *, every: bool = False) -> dict[Hashable, int]:
        """Put the step's tokens in; the entry that each sampling request's logits come from. `every` entry puts out."""
        entry, outputs = 0, {}
        self._logits[: step.tokens] = every
        for feed in step.feeds:
            end = entry + len(feed.tokens)
            self._token[entry:end] = feed.tokens
            self._position[entry:end] = range(feed.position, feed.position + len(feed.tokens))
            self._slot[entry:end] = feed.slot
            entry = end
            if feed.sample:
                self._logits[entry - 1] = 1
                outputs[feed.request] = entry - 1
        self.native.n_tokens = entry
        return outputs


def _view(state: bytearray) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
