"""One choice of one job inside the executor: its sampler, its text, its times, and the events for its caller."""

from collections.abc import Callable
from dataclasses import dataclass, field

from deltaic.engine.scheduling.request import Adapters
from deltaic.engine.worker.job import Job
from deltaic.engine.worker.sampling import Sampler
from deltaic.engine.worker.text import TextStream
from deltaic.engine.worker.tool_stream import ToolStream
from deltaic.errors import DeltaicError
from deltaic.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class Piece:
    """What was generated: text or a whole call of a tool, and the probabilities of the tokens since the last piece."""

    choice: int
    content: str | inference_pb2.ToolCall
    logprobs: tuple[inference_pb2.TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a choice. Times in seconds; `reason` as in the contract; `cached` are tokens of the prompt."""

    choice: int
    reason: "inference_pb2.Completion.FinishReason.ValueType"
    generated: int
    cached: int
    queue_seconds: float
    first_token_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of all inputs, of length 1, and the tokens that were read."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


Event = Piece | Finished | Embedded | DeltaicError
"""What was generated, the end, or why there will be no end."""

Deliver = Callable[[list[Event]], None]


@dataclass(slots=True, eq=False)
class Answer:
    """The executor's side of a choice. Touched by the executor's thread only.

    `adapters` are the keys of the adapters that it uses, as the shelf gave them.
    """

    identifier: int
    job: Job
    choice: int
    deliver: Deliver
    arrived: float
    adapters: Adapters = ()
    sampler: Sampler | None = None
    admitted: float = 0.0
    first: float = 0.0
    last: float = 0.0
    generated: int = 0
    cached: int = 0
    called: bool = False
    _text: TextStream = field(init=False)
    _tools: ToolStream | None = field(init=False)
    _logprobs: list[inference_pb2.TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._text = TextStream(self.job.stops)
        self._tools = ToolStream(self.job.tools) if self.job.tools is not None else None

    def take(
        self, piece: bytes | None, now: float, logprob: inference_pb2.TokenLogprob | None = None
    ) -> tuple[list[Event], Finished | None]:
        """Account for one token: what to send, and the end if this was it. `piece` None ends the turn."""
        self.first = self.first or now
        self.last = now
        if logprob is not None and piece is not None:
            self._logprobs.append(logprob)
        events: list[Event] = []
        if piece is not None:
            self.generated += 1
            self._say(events, self._text.push(piece))
        ended = piece is None or self._text.stopped
        if not ended and self.generated < self.job.budget:
            return events, None
        self._say(events, self._text.finish(), last=True)
        finished = self._finished(now, stopped=ended)
        return [*events, finished], finished

    def close(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def _say(self, events: list[Event], text: str, *, last: bool = False) -> None:
        contents: list[str | inference_pb2.ToolCall] = [text] if text else []
        if self._tools is not None:
            contents = self._tools.push(text) if text else []
            if last:
                contents += self._tools.finish()
        if last and self._logprobs and not contents:
            contents = [""]  # probabilities of what came to no text still belong to the answer
        for content in contents:
            self.called = self.called or not isinstance(content, str)
            events.append(Piece(self.choice, content, tuple(self._logprobs)))
            self._logprobs.clear()

    def _finished(self, now: float, *, stopped: bool) -> Finished:
        reason = inference_pb2.Completion.FinishReason
        stop = reason.FINISH_REASON_TOOL_CALLS if self.called else reason.FINISH_REASON_STOP
        return Finished(
            choice=self.choice,
            reason=stop if stopped else reason.FINISH_REASON_LENGTH,
            generated=self.generated,
            cached=self.cached,
            queue_seconds=self.admitted - self.arrived,
            first_token_seconds=self.first - self.arrived,
            decode_seconds=now - self.first,
        )
