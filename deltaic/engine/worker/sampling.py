"""How a token is chosen: parameters checked against their ranges, and the native chain that they make."""

import ctypes
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltaic.engine.errors import BadRequest, GrammarInvalid
from deltaic.engine.worker.candidates import Logits, Penalties, TopCandidates
from deltaic.engine.worker.grammar import Grammar
from deltaic.v1 import inference_pb2

if TYPE_CHECKING:
    from deltaic.engine.worker.model import Model

PENALTY_WINDOW = 64
"""Tokens back that the repeat penalty looks at, prompt included."""
MAX_LOGIT_BIASES = 1024
FORBIDDEN_BIAS = -100.0
"""A bias from here down makes a token impossible."""

_RANDOM_TO_LLAMA = 0xFFFFFFFF
_CANDIDATE = np.dtype([("token", np.int32), ("logit", np.float32), ("probability", np.float32)])
"""llama_token_data."""

_MOST_CANDIDATES = 1024
"""A top-k above this is left to llama.cpp, from the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """Values in the ranges that the contract gives."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_proto(cls, message: inference_pb2.Sampling, vocabulary_size: int) -> "SamplingParameters":
        """Fill in the defaults; an absent seed is drawn. Raises BadRequest."""
        given: dict[str, Any] = {descriptor.name: value for descriptor, value in message.ListFields()}
        given["seed"] = _seed(given.get("seed", secrets.randbits(32)))
        given["logit_bias"] = _biases(message.logit_bias, vocabulary_size)
        parameters = cls(**given)
        parameters._check()
        return parameters

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens matter."""
        return self.repeat_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def seed_of(self, choice: int) -> int:
        """The seed of one of several answers to the same request."""
        return _seed((self.seed + choice) & 0xFFFFFFFF)

    def _check(self) -> None:
        _in_range("temperature", self.temperature, 0, 5)
        _in_range("top_k", self.top_k, 0, 1 << 20)
        _in_range("top_p", self.top_p, 0, 1)
        _in_range("min_p", self.min_p, 0, 1)
        _in_range("repeat_penalty", self.repeat_penalty, 0.01, 10)
        _in_range("frequency_penalty", self.frequency_penalty, -2, 2)
        _in_range("presence_penalty", self.presence_penalty, -2, 2)


def _seed(seed: int) -> int:
    """llama.cpp takes the largest seed as "draw one": the nearest other value keeps the promise of a given seed."""
    return min(seed, _RANDOM_TO_LLAMA - 1)


def _biases(given: Mapping[int, float], vocabulary_size: int) -> tuple[tuple[int, float], ...]:
    """Checked biases by token; forbidden is minus infinity. A token outside the vocabulary would abort llama.cpp."""
    if len(given) > MAX_LOGIT_BIASES:
        raise BadRequest(f"{len(given)} logit biases", hint=f"send at most {MAX_LOGIT_BIASES}", field="logit_bias")
    biases = []
    for token, bias in sorted(given.items()):
        if token >= vocabulary_size:
            raise BadRequest(
                f"sampling.logit_bias names token {token}, the model has {vocabulary_size}",
                hint="use ids of the tokens of this model",
                field="logit_bias",
            )
        _in_range("logit_bias", bias, -1000, 100)
        biases.append((token, -math.inf if bias <= FORBIDDEN_BIAS else bias))
    return tuple(biases)


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise BadRequest(f"sampling.{name} is {value:g}", hint=f"give a value from {least:g} to {most:g}", field=name)


class Sampler:
    """Chooses the tokens of one answer. Used by the thread of the context only; `close` frees it.

    For each token: `sample`, or what the graph sampled with `backend`; then `accept`.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        grammar: Grammar | None,
        model: "Model",
        recent: Sequence[int] = (),
        seed: int | None = None,
    ) -> None:
        """`recent` are the last tokens of the prompt, which the repeat penalty counts; `seed` replaces that given."""
        self._native: Any = model.native
        self._model = model
        self._parameters = parameters
        self._seed = parameters.seed if seed is None else seed
        self._matcher = grammar.matcher() if grammar else None
        self._chain: Any = None if parameters.greedy else self._new_chain()
        self._penalties = self._new_penalties(tuple(recent)) if parameters.penalised else None
        few = 0 < parameters.top_k <= _MOST_CANDIDATES
        self._candidates = TopCandidates(parameters.top_k) if few and not parameters.greedy else None
        self._bias_tokens = np.array([token for token, _ in parameters.logit_bias], np.intp)
        self._biases = np.array([bias for _, bias in parameters.logit_bias], np.float32)

    @property
    def backend(self) -> Any | None:
        """The chain for `llama_set_sampler`, while it is attached to one slot; None where only `sample` chooses.

        The graph then returns tokens and no logits, so requests for log probabilities must not attach it. A chain may
        be attached once: call `detached` after taking it off.
        """
        if not self._plain:
            return None
        if self._chain is None:
            self._chain = self._new_chain()
        return self._chain

    def detached(self) -> None:
        """Go on with a copy of the chain, random state included: llama.cpp aborts when one is attached again."""
        if self._chain is not None:
            used, self._chain = self._chain, self._native.llama_sampler_clone(self._chain)
            self._native.llama_sampler_free(used)

    def sample(self, context: Any, output: int) -> int:
        """Choose a token from the logits of batch entry `output`.

        Raises GrammarInvalid when no token that the grammar allows is left. With a grammar the choice is made without
        it first, as most choices fit; only when one does not, all tokens are tested against the grammar.
        """
        logits = self._logits(context, output)
        if self._bias_tokens.size or self._penalties is not None:
            logits = logits.copy()
            logits[self._bias_tokens] += self._biases
            if self._penalties is not None:
                self._penalties.apply(logits)
        token = self._choose(logits, None)
        if self._matcher is not None and not self._matcher.allows(token):
            token = self._choose(logits, self._matcher.allowed())
        return token

    def accept(self, token: int) -> None:
        """Remember a chosen token, whoever chose it. Raises GrammarInvalid for one that the grammar does not allow."""
        if self._penalties is not None:
            self._penalties.accept(token)
        if self._matcher is not None:
            self._matcher.accept(token)

    def logprobs(self, context: Any, output: int, token: int, top: int) -> inference_pb2.TokenLogprob:
        """How likely `token` was before temperature and filters, and the `top` most likely tokens, best first."""
        logits = self._logits(context, output)
        shifted = logits - logits.max()
        shifted -= math.log(float(np.exp(shifted).sum(dtype=np.float64)))
        best = np.argpartition(shifted, -top)[-top:] if top else ()
        ordered = sorted((int(each) for each in best), key=lambda each: (-shifted[each], each))
        return inference_pb2.TokenLogprob(
            chosen=self._candidate(token, shifted), top=[self._candidate(each, shifted) for each in ordered]
        )

    def close(self) -> None:
        if self._chain is not None:
            self._native.llama_sampler_free(self._chain)
            self._chain = None

    def _choose(self, logits: Logits, tokens: "NDArray[np.intp] | None") -> int:
        """One of `tokens`, or of all where None. Raises GrammarInvalid when none of them is possible."""
        values = logits if tokens is None else logits[tokens]
        if self._chain is None:
            at = int(values.argmax())
            chosen, logit = at if tokens is None else int(tokens[at]), values[at]
        else:
            if self._candidates is not None:
                best = self._candidates.of(values)
                tokens, values = best if tokens is None else tokens[best], values[best]
            chosen, logit = self._drawn(values, tokens)
        if logit == -math.inf:
            raise GrammarInvalid(
                "no token is left that both the grammar and the logit bias allow", hint="forbid fewer tokens"
            )
        return chosen

    def _drawn(self, values: Logits, tokens: "NDArray[np.intp] | None") -> tuple[int, float]:
        """What the chain makes of `tokens` with the logits `values`: a token and its logit."""
        candidates = np.empty(len(values), _CANDIDATE)
        candidates["token"] = np.arange(len(values)) if tokens is None else tokens
        candidates["logit"] = values
        data = candidates.ctypes.data_as(self._native.llama_token_data_p)
        array = self._native.llama_token_data_array(data, len(candidates), -1, False)
        self._native.llama_sampler_apply(self._chain, ctypes.byref(array))
        chosen = array.data[array.selected]
        return int(chosen.id), float(chosen.logit)

    @property
    def _plain(self) -> bool:
        """Whether only the logits of this step matter: no grammar, bias or penalty."""
        return self._matcher is None and not self._bias_tokens.size and not self._parameters.penalised

    def _new_chain(self) -> Any:
        native = self._native
        chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for link in self._filters():
            native.llama_sampler_chain_add(chain, link)
        return chain

    def _new_penalties(self, recent: tuple[int, ...]) -> Penalties:
        given = self._parameters
        return Penalties(given.repeat_penalty, given.frequency_penalty, given.presence_penalty, recent, PENALTY_WINDOW)

    def _filters(self) -> Iterator[Any]:
        """What takes tokens out, and the choice among the rest."""
        native, parameters = self._native, self._parameters
        if parameters.temperature == 0:
            yield native.llama_sampler_init_greedy()
            return
        if parameters.top_k > 0:
            yield native.llama_sampler_init_top_k(parameters.top_k)
        if parameters.top_p < 1:
            yield native.llama_sampler_init_top_p(parameters.top_p, 1)
        if parameters.min_p > 0:
            yield native.llama_sampler_init_min_p(parameters.min_p, 1)
        yield native.llama_sampler_init_temp(parameters.temperature)
        yield native.llama_sampler_init_dist(self._seed)

    def _candidate(self, token: int, logprobs: Logits) -> inference_pb2.TokenLogprob.Candidate:
        return inference_pb2.TokenLogprob.Candidate(token=self._model.piece(token), logprob=float(logprobs[token]))

    def _logits(self, context: Any, output: int) -> Logits:
        """The raw logits of batch entry `output`; a view that the next decode overwrites."""
        pointer = self._native.llama_get_logits_ith(context, output)
        row = (ctypes.c_float * self._model.vocabulary_size).from_address(ctypes.addressof(pointer.contents))
        logits: Logits = np.frombuffer(row, np.float32)  # type: ignore[call-overload]
        return logits
