"""The demo model without a worker: its vocabulary, and a native context of one sequence that a test can sample from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deltaic.engine.worker.executor import Loaded
from deltaic.engine.worker.grammar import Grammar
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.sampling import Sampler, SamplingParameters

CONTEXT_TOKENS = 512


@dataclass
class Answering:
    """Answers of one sequence, token by token."""

    model: Model
    context: Any
    batch: Any
    fed: int = field(default=0)

    def feed(self, tokens: tuple[int, ...] | list[int], *, anew: bool = False) -> int:
        """Decode; the batch entry whose logits are those after the last token."""
        native = self.model.native
        if anew:
            native.llama_memory_clear(native.llama_get_memory(self.context), True)
            self.fed = 0
        for entry, token in enumerate(tokens):
            self.batch.token[entry], self.batch.pos[entry] = token, self.fed + entry
            self.batch.n_seq_id[entry], self.batch.seq_id[entry][0] = 1, 0
            self.batch.logits[entry] = entry == len(tokens) - 1
        self.batch.n_tokens = len(tokens)
        assert native.llama_decode(self.context, self.batch) == 0
        self.fed += len(tokens)
        return len(tokens) - 1

    def tokens(
        self,
        prompt: str | tuple[int, ...],
        parameters: SamplingParameters,
        grammar: Grammar | None = None,
        *,
        most: int = 16,
        **more: Any,
    ) -> list[int]:
        """An answer to a raw prompt, as text or tokens, without the token that ends it."""
        read = self.model.tokenize(prompt) if isinstance(prompt, str) else prompt
        sampler = Sampler(parameters, grammar, self.model, read, **more)
        answer: list[int] = []
        try:
            output = self.feed(read, anew=True)
            while len(answer) < most:
                token = sampler.sample(self.context, output)
                sampler.accept(token)
                if self.model.ends(token):
                    break
                answer.append(token)
                output = self.feed([token])
        finally:
            sampler.close()
        return answer

    def text(
        self,
        prompt: str | tuple[int, ...],
        parameters: SamplingParameters,
        grammar: Grammar | None = None,
        *,
        most: int = 16,
        **more: Any,
    ) -> str:
        tokens = self.tokens(prompt, parameters, grammar, most=most, **more)
        return b"".join(map(self.model.piece, tokens)).decode()


@pytest.fixture(scope="session")
def model(demo_model_path: Path) -> Iterator[Model]:
    log = NativeLog()
    log.install()
    loaded = Model(demo_model_path, log)
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def loaded(model: Model) -> Loaded:
    return Loaded(model, CONTEXT_TOKENS)


@pytest.fixture(scope="session")
def answering(model: Model) -> Iterator[Answering]:
    native = model.native
    parameters = native.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = CONTEXT_TOKENS
    parameters.n_threads = parameters.n_threads_batch = 1
    context = native.llama_init_from_model(model.pointer, parameters)
    batch = native.llama_batch_init(CONTEXT_TOKENS, 0, 1)
    yield Answering(model, context, batch)
    native.llama_batch_free(batch)
    native.llama_free(context)
