"""How fast this worker is, measured: seconds of answers by their number, of prompts by the token.

Both are moving averages, so that they follow a context that grows and a machine that is busy with other things.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_WEIGHT = 0.2
_FIRST_GUESS_PREFILL = 0.002
_FIRST_GUESS_DECODE = 0.02
_SURE_AFTER = 16
_TELLING = 8
"""Prompt tokens of a call that tell fully what one takes; with fewer, the call itself tells more than they do."""


@dataclass(slots=True)
class Pace:
    """Seconds in, tokens out. `gap` is how many times longer than usual prompts may make the gap between two tokens.

    Usual is what the same number of answers took when no prompt was read between their tokens. Answers grow while a
    long prompt is read, and take longer for it: that too is part of the gap.
    """

    gap: float = 2.0
    _decode: dict[int, float] = field(default_factory=dict)
    _usual: dict[int, float] = field(default_factory=dict)
    _read_last: bool = False
    _prefill: float = 0.0
    _length: float = 0.0
    _steps: int = 0

    @property
    def sure(self) -> bool:
        """Whether enough was seen to refuse a request because of it."""
        return self._steps >= _SURE_AFTER and self._prefill > 0

    def observe_answers(self, sequences: int, seconds: float) -> None:
        """A token of each of so many answers was computed."""
        self._steps += 1
        for table in (self._decode,) if self._read_last else (self._decode, self._usual):
            table[sequences] = _moved(table.get(sequences, 0.0), seconds)
        self._read_last = False

    def observe_prompts(self, tokens: int, seconds: float) -> None:
        """So many tokens of prompts were read."""
        self._steps += 1
        self._read_last = True
        if self._prefill or tokens >= _TELLING:
            self._prefill = _moved(self._prefill, seconds / tokens, min(tokens / _TELLING, 1.0))

    def finished(self, generated: int) -> None:
        """An answer ended after this many tokens."""
        self._length = _moved(self._length, float(generated))

    def decode_seconds(self, decoding: int) -> float:
        """A token of each of so many answers: as measured, or in proportion to the nearest number that was."""
        return _expected(self._decode, decoding) or _FIRST_GUESS_DECODE

    def prefill_seconds(self, tokens: int) -> float:
        return tokens * (self._prefill or _FIRST_GUESS_PREFILL)

    def expected_length(self, budget: int) -> float:
        """Tokens that an answer is likely to have."""
        return min(float(budget), self._length) if self._length else float(budget)

    def chunk(self, decoding: int, most: int) -> int:
        """Prompt tokens that fit beside `decoding` answers without stretching their gaps more than `gap` times.

        Beside answers that have grown a lot, a third of what would fit if that were usual. At least one; and as long as
        nothing is known, enough to learn what one takes.
        """
        if not decoding:
            return most
        now = self.decode_seconds(decoding)
        room = max(self.gap * (_expected(self._usual, decoding) or now) - now, (self.gap - 1) * now / 3)
        return min(max(round(room / self.prefill_seconds(1)), 1 if self._prefill else _TELLING), most)


def _expected(seconds: Mapping[int, float], decoding: int) -> float:
    """By the nearest number that was measured; 0 where none was."""
    if not seconds:
        return 0.0
    nearest = min(seconds, key=lambda known: abs(known - decoding))
    return seconds[nearest] * max(decoding / nearest, 1.0)


def _moved(average: float, value: float, telling: float = 1.0) -> float:
    return average + _WEIGHT * telling * (value - average) if average else value
