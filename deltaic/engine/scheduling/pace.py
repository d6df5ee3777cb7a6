"""How fast this worker is, measured: seconds of a step by what is in it, and what follows for the next one.

A step with `n` decoding sequences and `p` prompt tokens is taken to last `decode(n) + p * prefill`. Both are moving
averages, so that they follow a context that grows and a machine that is busy with other things.
"""

from dataclasses import dataclass, field

_WEIGHT = 0.2
_FIRST_GUESS_PREFILL = 0.002
_FIRST_GUESS_DECODE = 0.02
_SURE_AFTER = 16
_LEAST_CHUNK = 1
_BLIND_AFTER = 16
_TELLING = 8
"""Prompt tokens of a step that tell fully what one takes; with fewer, the rest of the step tells more than they do."""


@dataclass(slots=True)
class Pace:
    """Seconds in, tokens out. `gap` is how many times its usual length a step may be stretched by prompts."""

    gap: float = 2.2
    _decode: dict[int, float] = field(default_factory=dict)
    _prefill: float = 0.0
    _length: float = 0.0
    _steps: int = 0
    _since_plain: int = 0

    @property
    def blind(self) -> bool:
        """Whether it is long ago that a step without prompts showed what one takes; answers grow meanwhile."""
        return self._since_plain >= _BLIND_AFTER

    @property
    def sure(self) -> bool:
        """Whether enough was seen to refuse a request because of it."""
        return self._steps >= _SURE_AFTER and self._prefill > 0

    def observe(self, decoding: int, prefilled: int, seconds: float) -> None:
        """A step was run."""
        self._steps += 1
        self._since_plain = self._since_plain + 1 if prefilled else 0
        if not prefilled:
            self._decode[decoding] = _moved(self._decode.get(decoding, 0.0), seconds)
        elif self._prefill or prefilled >= _TELLING:
            each = max(seconds - (self.decode_seconds(decoding) if decoding else 0.0), 0.0) / prefilled
            self._prefill = _moved(self._prefill, each, min(prefilled / _TELLING, 1.0))

    def finished(self, generated: int) -> None:
        """An answer ended after this many tokens."""
        self._length = _moved(self._length, float(generated))

    def decode_seconds(self, decoding: int) -> float:
        """A step without prompts: as measured, or in proportion to the nearest number that was."""
        if not self._decode:
            return _FIRST_GUESS_DECODE
        nearest = min(self._decode, key=lambda known: abs(known - decoding))
        known = self._decode[nearest]
        return known if decoding <= nearest else known * decoding / nearest

    def prefill_seconds(self, tokens: int) -> float:
        return tokens * (self._prefill or _FIRST_GUESS_PREFILL)

    def expected_length(self, budget: int) -> float:
        """Tokens that an answer is likely to have."""
        return min(float(budget), self._length) if self._length else float(budget)

    def chunk(self, decoding: int, most: int) -> int:
        """Prompt tokens that fit beside `decoding` sequences without stretching their step more than `gap` times."""
        if not decoding:
            return most
        room = (self.gap - 1) * self.decode_seconds(decoding)
        return max(min(int(room / (self._prefill or _FIRST_GUESS_PREFILL)), most), min(_LEAST_CHUNK, most))


def _moved(average: float, value: float, telling: float = 1.0) -> float:
    return average + _WEIGHT * telling * (value - average) if average else value
