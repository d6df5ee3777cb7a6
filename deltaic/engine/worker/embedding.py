"""Texts turned into vectors, on a context of their own beside the one that answers. Belongs to the same thread.

A model that says how it pools is asked for the pooled vector, and reads each text in one piece. A language model that
says nothing is read in chunks, like a prompt; its vector is the mean of the hidden states of all tokens.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.scheduling.request import Scope
from deltaic.engine.scheduling.scheduler import Feed, Step
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.answering import Deliver, Embedded
from deltaic.engine.worker.context import Batch, DecodeFailed
from deltaic.engine.worker.model import Model

_POOLING_NONE, _POOLING_UNSPECIFIED = 0, -1


@dataclass(slots=True, eq=False)
class EmbedJob:
    """Token lists to embed, in order. `deadline` is monotonic seconds."""

    inputs: tuple[tuple[int, ...], ...]
    deadline: float
    deliver: Deliver
    scope: Scope = field(default_factory=Scope)
    vectors: list[tuple[float, ...]] = field(default_factory=list)
    at: int = 0
    sum: Any = 0.0


@dataclass(slots=True)
class Embedder:
    """Jobs one after the other, a chunk at a time: `step` is called between the steps of answers."""

    model: Model
    settings: EngineSettings
    _jobs: "deque[tuple[int, EmbedJob]]" = field(default_factory=deque)
    _context: Any = None
    _memory: Any = None
    _batch: Batch | None = None
    _pooled: bool = False
    _capacity: int = 0

    @property
    def idle(self) -> bool:
        return not self._jobs

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def add(self, identifier: int, job: EmbedJob) -> None:
        self._jobs.append((identifier, job))

    def remove(self, identifier: int) -> EmbedJob | None:
        """Forget a job; None when it is not here."""
        for entry in self._jobs:
            if entry[0] == identifier:
                if entry is self._jobs[0]:
                    self._forget_text()
                self._jobs.remove(entry)
                return entry[1]
        return None

    def expired(self, now: float) -> list[int]:
        return [identifier for identifier, job in self._jobs if job.deadline <= now]

    def step(self, most: int) -> tuple[EmbedJob, Embedded] | None:
        """Read at most `most` tokens of the first job (a text that must be read whole is); the job if it is done.

        Raises DecodeFailed, and WorkerFailed when there is no memory for the context.
        """
        if self._context is None:
            self._open()
        _, job = self._jobs[0]
        text = job.inputs[len(job.vectors)]
        count = len(text) if self._pooled else min(len(text) - job.at, most, self._capacity)
        states = self._read(text[job.at : job.at + count], job.at)
        job.at += count
        job.sum = job.sum + states
        if job.at == len(text):
            norm = float(np.linalg.norm(job.sum)) or 1.0
            job.vectors.append(tuple((job.sum / norm).tolist()))
            self._forget_text()
            job.at, job.sum = 0, 0.0
        if len(job.vectors) < len(job.inputs):
            return None
        self._jobs.popleft()
        return job, Embedded(tuple(job.vectors), sum(map(len, job.inputs)))

    def close(self) -> None:
        if self._context is not None:
            self.model.native.llama_free(self._context)
            self._context = None

    def _open(self) -> None:
        native = self.model.native
        parameters = native.llama_context_default_params()
        longest = min(self.settings.context_tokens, self.model.trained_context or self.settings.context_tokens)
        parameters.n_ctx = longest
        parameters.n_seq_max = 1
        parameters.embeddings = True
        parameters.pooling_type = _POOLING_UNSPECIFIED
        parameters.n_batch = parameters.n_ubatch = (
            longest if self.model.pools else min(longest, self.settings.batch_tokens)
        )
        parameters.n_threads = parameters.n_threads_batch = self.settings.resolved_threads()
        self._context = native.llama_init_from_model(self.model.pointer, parameters)
        if not self._context:
            raise WorkerFailed("no room for a context that embeds", hint="lower engine.context_tokens")
        self._pooled = native.llama_pooling_type(self._context) != _POOLING_NONE
        self._capacity = int(parameters.n_batch)
        self._memory = native.llama_get_memory(self._context)
        self._batch = Batch(native, self._capacity)

    def _read(self, tokens: tuple[int, ...], position: int) -> Any:
        """The sum of the hidden states of these tokens, or the vector of the whole text; float64, the model's width."""
        assert self._batch is not None
        native = self.model.native
        self._batch.fill(Step((Feed("", 0, position, tokens, sample=False),)), every=True)
        status = native.llama_decode(self._context, self._batch.native)
        if status != 0:
            raise DecodeFailed(f"llama_decode returned {status} for an embedding")
        if self._pooled:
            pointer = native.llama_get_embeddings_seq(self._context, 0)
            return np.ctypeslib.as_array(pointer, (self.model.width,)).astype(np.float64)
        pointer = native.llama_get_embeddings(self._context)
        return np.ctypeslib.as_array(pointer, (len(tokens), self.model.width)).sum(axis=0, dtype=np.float64)

    def _forget_text(self) -> None:
        if self._memory is not None:
            self.model.native.llama_memory_seq_rm(self._memory, 0, -1, -1)
