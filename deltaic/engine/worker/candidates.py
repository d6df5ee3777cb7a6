"""The tokens that a sampler chain has to look at, found without sorting the vocabulary.

llama.cpp's chain starts from a list of all tokens: building it for 50,000 tokens and searching it takes half a
millisecond for each answer in each step. A chain that begins with top-k needs k of them, and those lie close to the
largest logit: one comparison with a bound finds them.
"""

import math

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

_FIRST_REACH = 12.0
_MANY = 32


class TopCandidates:
    """The k most likely tokens of one answer, step after step. The bound follows what the last steps needed."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._reach = _FIRST_REACH

    def of(self, logits: Logits) -> NDArray[np.intp]:
        """The k tokens with the largest logits, in no order; fewer only where there are fewer."""
        k, largest = self._k, float(logits.max())
        if k >= logits.size or not math.isfinite(largest):
            return np.arange(logits.size)
        near = np.flatnonzero(logits >= largest - self._reach)
        if near.size < k:
            self._reach *= 1.5
            near = np.arange(logits.size)
        elif near.size > _MANY * k:
            self._reach *= 0.8
        if near.size == k:
            return near
        return near[np.argpartition(logits[near], near.size - k)[near.size - k :]]


class Penalties:
    """Earlier tokens made less likely, as llama.cpp's sampler of that name does it.

    `repeat` divides (or, below 0, multiplies) the logits of the last `window` tokens, prompt included; `frequency` and
    `presence` are taken from those of generated tokens, for each time and once.
    """

    def __init__(self, repeat: float, frequency: float, presence: float, recent: tuple[int, ...], window: int) -> None:
        self._repeat, self._frequency, self._presence = repeat, frequency, presence
        self._window = window
        self._recent = list(recent[-window:])
        self._counts: dict[int, int] = {}

    def apply(self, logits: Logits) -> None:
        """Change `logits` in place."""
        if self._repeat != 1 and self._recent:
            tokens = np.unique(self._recent)
            values = logits[tokens]
            logits[tokens] = np.where(values <= 0, values * self._repeat, values / self._repeat)
        if self._counts and (self._frequency or self._presence):
            tokens = np.fromiter(self._counts, np.intp, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[tokens] -= counts * np.float32(self._frequency) + np.float32(self._presence)

    def accept(self, token: int) -> None:
        """A token was generated."""
        self._recent = [*self._recent[1 - self._window :], token]
        self._counts[token] = self._counts.get(token, 0) + 1
