"""One request inside the executor: its sampler, its text, its times, and the events that its caller receives."""

from collections.abc import Callable
from dataclasses import dataclass, field

from deltaic.engine.worker.job import Job
from deltaic.engine.worker.sampling import Sampler
from deltaic.engine.worker.text import TextStream
from deltaic.errors import DeltaicError


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer. Times in seconds; `stopped` is False when the budget ran out."""

    stopped: bool
    generated: int
    queue_seconds: float
    first_token_seconds: float
    decode_seconds: float


Event = str | Finished | DeltaicError
"""Text, the end, or why there will be no end."""


@dataclass(slots=True)
class Answer:
    """The executor's side of a job. Touched by the executor's thread only, except `deliver`, which is thread-safe."""

    job: Job
    deliver: Callable[[list[Event]], None]
    arrived: float
    text: TextStream = field(init=False)
    sampler: Sampler | None = None
    admitted: float = 0.0
    first: float = 0.0
    last: float = 0.0
    generated: int = 0

    def __post_init__(self) -> None:
        self.text = TextStream(self.job.stops)

    def take(self, piece: bytes | None, now: float) -> tuple[list[Event], bool]:
        """Account for one token: what to send, and whether the answer is complete. `piece` None ends the turn."""
        if not self.first:
            self.first = now
        events: list[Event] = []
        if piece is not None:
            self.generated += 1
            self._say(events, self.text.push(piece))
        ended = piece is None or self.text.stopped
        if ended or self.generated >= self.job.budget:
            self._say(events, self.text.finish())
            events.append(self._finished(now, stopped=ended or self.text.stopped))
            return events, True
        return events, False

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def _say(self, events: list[Event], text: str) -> None:
        if text:
            events.append(text)

    def _finished(self, now: float, *, stopped: bool) -> Finished:
        return Finished(
            stopped=stopped,
            generated=self.generated,
            queue_seconds=self.admitted - self.arrived,
            first_token_seconds=self.first - self.arrived,
            decode_seconds=now - self.first,
        )
