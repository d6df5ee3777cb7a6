"""How a token is chosen: parameters checked against their ranges, and the native chain that they make."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltaic.engine.errors import BadRequest
from deltaic.engine.worker.grammar import Grammar
from deltaic.v1 import inference_pb2

if TYPE_CHECKING:
    from deltaic.engine.worker.model import Model

PENALTY_WINDOW = 64
"""Tokens back that the repeat penalty looks at, prompt included."""

_RANDOM_TO_LLAMA = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """Values in the ranges that the contract gives."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0

    @classmethod
    def from_proto(cls, message: inference_pb2.Sampling) -> "SamplingParameters":
        """Fill in the defaults; an absent seed is drawn. Raises BadRequest."""
        given = {descriptor.name: value for descriptor, value in message.ListFields()}
        seed = given.get("seed", secrets.randbits(32))
        # llama.cpp takes the largest seed as "draw one": the nearest other value keeps the promise of a given seed.
        parameters = cls(**given | {"seed": min(seed, _RANDOM_TO_LLAMA - 1)})
        parameters._check()
        return parameters

    def _check(self) -> None:
        _in_range("temperature", self.temperature, 0, 5)
        _in_range("top_k", self.top_k, 0, 1 << 20)
        _in_range("top_p", self.top_p, 0, 1)
        _in_range("min_p", self.min_p, 0, 1)
        _in_range("repeat_penalty", self.repeat_penalty, 0.01, 10)


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise BadRequest(f"sampling.{name} is {value:g}", hint=f"give a value from {least:g} to {most:g}", field=name)


class Sampler:
    """Chooses the tokens of one answer. Used by the thread of the context only; `close` frees it.

    For each token: `sample`, or what the backend sampled with `backend`; then `accept`.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        grammar: Grammar | None,
        model: "Model",
        recent: Sequence[int] = (),
        seed: int | None = None,
    ) -> None:
        """`recent` are the last tokens of the prompt, which the repeat penalty counts; `seed` replaces the parameters'.

        Raises GrammarInvalid.
        """
        self._native: Any = model.native
        self._model = model
        self._grammar = grammar
        self._chain: Any = None
        self._seed = parameters.seed if seed is None else seed
        if parameters.temperature == 0 and parameters.repeat_penalty == 1.0:
            return
        self._chain = self._native.llama_sampler_chain_init(self._native.llama_sampler_chain_default_params())
        for link in self._links(parameters):
            self._native.llama_sampler_chain_add(self._chain, link)
        if parameters.repeat_penalty != 1.0:
            for token in recent[-PENALTY_WINDOW:]:
                self._native.llama_sampler_accept(self._chain, token)

    @property
    def backend(self) -> Any | None:
        """The chain that may run inside the graph (`llama_set_sampler`), or None: then `sample` chooses."""
        return None

    def _links(self, parameters: SamplingParameters) -> list[Any]:
        native = self._native
        links = []
        if parameters.repeat_penalty != 1.0:
            penalty = native.llama_sampler_init_penalties(
                self._model.vocabulary_size, PENALTY_WINDOW, parameters.repeat_penalty, 0.0, 0.0
            )
            links.append(penalty)
        if parameters.temperature == 0:
            return [*links, native.llama_sampler_init_greedy()]
        if parameters.top_k > 0:
            links.append(native.llama_sampler_init_top_k(parameters.top_k))
        if parameters.top_p < 1:
            links.append(native.llama_sampler_init_top_p(parameters.top_p, 1))
        if parameters.min_p > 0:
            links.append(native.llama_sampler_init_min_p(parameters.min_p, 1))
        links.append(native.llama_sampler_init_temp(parameters.temperature))
        return [*links, native.llama_sampler_init_dist(self._seed)]

    def sample(self, context: Any, output: int) -> int:
        """Choose a token from the logits of batch entry `output`.

        Plain greedy needs no chain: the first largest logit, found without building llama.cpp's list of candidates.
        """
        if self._chain is None:
            return int(self._logits(context, output).argmax())
        return int(self._native.llama_sampler_sample(self._chain, context, output))

    def accept(self, token: int) -> None:
        """Remember a chosen token, whoever chose it."""

    def logprobs(self, context: Any, output: int, token: int, top: int) -> inference_pb2.TokenLogprob:
        """How likely `token` was before temperature and filters, and the `top` most likely tokens, best first."""
        logits = self._logits(context, output).astype(np.float64)
        logits -= logits.max()
        logits -= np.log(np.exp(logits).sum())
        best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, int)
        best = best[np.argsort(-logits[best], kind="stable")]
        return inference_pb2.TokenLogprob(
            chosen=self._candidate(token, logits[token]),
            top=[self._candidate(int(each), logits[each]) for each in best],
        )

    def _candidate(self, token: int, logprob: float) -> inference_pb2.TokenLogprob.Candidate:
        return inference_pb2.TokenLogprob.Candidate(token=self._model.piece(token), logprob=logprob)

    def _logits(self, context: Any, output: int) -> Any:
        """The raw logits of batch entry `output`; a view that the next decode overwrites."""
        pointer = self._native.llama_get_logits_ith(context, output)
        return np.ctypeslib.as_array(pointer, (self._model.vocabulary_size,))

    def close(self) -> None:
        if self._chain is not None:
            self._native.llama_sampler_free(self._chain)
            self._chain = None
