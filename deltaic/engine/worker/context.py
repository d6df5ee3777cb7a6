"""The native context: key-value memory of all slots and one batch. Belongs to one thread."""

from typing import Any

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.placement.options import context_options
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.scheduler import Step


class DecodeFailed(RuntimeError):
    """llama_decode refused a batch that fits: the context is not to be trusted any more."""


class Context:
    """Runs steps. Make it, use it and close it on the same thread."""

    def __init__(self, model: Model, settings: EngineSettings) -> None:
        """Raises WorkerFailed when there is not enough memory for the slots."""
        self._native: Any = model.native
        self._capacity = settings.batch_tokens
        per_slot = min(settings.context_tokens, model.trained_context or settings.context_tokens)
        parameters = self._native.llama_context_default_params()
        parameters.n_ctx = per_slot * settings.slots
        parameters.n_seq_max = settings.slots
        parameters.n_batch = parameters.n_ubatch = self._capacity
        parameters.n_threads = parameters.n_threads_batch = settings.resolved_threads()
        parameters.kv_unified = False
        context_options(settings).apply(parameters)
        self.pointer: Any = self._native.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise WorkerFailed(
                f"no room for {settings.slots} slots of {per_slot} tokens",
                hint="lower engine.slots or engine.context_tokens",
            )
        self.context_tokens = per_slot
        self._memory: Any = self._native.llama_get_memory(self.pointer)
        self._batch: Any = self._native.llama_batch_init(self._capacity, 0, 1)

    def clear(self, slot: int) -> None:
        """Forget everything that a slot holds."""
        self._native.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def decode(self, step: Step) -> dict[int, int]:
        """Run one step; the batch entry whose logits belong to each sequence that samples. Raises DecodeFailed.

        A batch above its capacity would abort the process, so it is refused here.
        """
        if step.tokens > self._capacity:
            raise DecodeFailed(f"{step.tokens} tokens in a batch of {self._capacity}")
        outputs = self._fill(step)
        status = self._native.llama_decode(self.pointer, self._batch)
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status}")
        return outputs

    def _fill(self, step: Step) -> dict[int, int]:
        batch, entry, outputs = self._batch, 0, {}
        for feed in step.feeds:
            for offset, token in enumerate(feed.tokens):
                batch.token[entry] = token
                batch.pos[entry] = feed.position + offset
                batch.n_seq_id[entry] = 1
                batch.seq_id[entry][0] = feed.slot
                batch.logits[entry] = 0
                entry += 1
            if feed.sample:
                batch.logits[entry - 1] = 1
                outputs[feed.sequence] = entry - 1
        batch.n_tokens = entry
        return outputs

    def close(self) -> None:
        if self.pointer:
            self._native.llama_batch_free(self._batch)
            self._native.llama_free(self.pointer)
            self.pointer = None
