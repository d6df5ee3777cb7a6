"""What a worker tells of itself: written by the thread that decodes, read by any other, without a lock.

The executor calls `beat` after every step and at least every IDLE_SECONDS while it waits, and the rest where it
happens. Every write is one store into a field that only this thread changes, so a reader sees whole values, though not
all of the same moment: a snapshot may count a token whose step it does not count yet.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deltaic.v1 import worker_pb2

IDLE_SECONDS = 0.25
"""An executor with nothing to do beats this often; a heartbeat is sent only when there was a beat since the last."""

_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAPS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class How(StrEnum):
    """How a request ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    EMBEDDED = "embedded"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Backend:
    """What computes. `layers` of the model, `gpu_layers` of them on GPUs; `why` is one line for people."""

    cpu: str = ""
    features: tuple[str, ...] = ()
    gpu_layers: int = 0
    layers: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker has in hand between two steps: requests, tokens in slots, bytes of prompt states beside them."""

    running: int = 0
    waiting: int = 0
    parked: int = 0
    kv_tokens: int = 0
    prefix_bytes: int = 0


class Vitals:
    """The state of one worker. Only the executor's thread writes; `snapshot`, `beats` and `silent` are for all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds, the same as what `beat` is called with."""
        self._clock = clock
        self._last_beat = clock()
        self._beats = 0
        self._slots = self._kv_capacity = 0
        self._backend = Backend()
        self._load = Load()
        self._queue, self._first_token = _Distribution(_WAITS), _Distribution(_WAITS)
        self._inter_token, self._step, self._batch = _Distribution(_GAPS), _Distribution(_GAPS), _Distribution(_TOKENS)
        self._prompt = self._cached = self._generated = self._hits = self._misses = self._preempted = 0
        self._finished = dict.fromkeys(How, 0)

    def describe(self, slots: int, kv_capacity: int, backend: Backend) -> None:
        """Once loaded: slots, the tokens that all of them can hold, and what computes."""
        self._slots, self._kv_capacity, self._backend = slots, kv_capacity, backend

    def beat(self, now: float, load: Load | None = None) -> None:
        """The executor's thread lives, and this is what it has in hand (None: as before)."""
        if load is not None:
            self._load = load
        self._last_beat = now
        self._beats += 1

    def observe_queue(self, seconds: float) -> None:
        """From arrival until a slot was free; once a request."""
        self._queue.observe(seconds)

    def observe_first_token(self, seconds: float) -> None:
        """From arrival to the first token; once a request."""
        self._first_token.observe(seconds)

    def observe_inter_token(self, seconds: float) -> None:
        """Between two tokens of one answer."""
        self._inter_token.observe(seconds)

    def observe_step(self, seconds: float, tokens: int) -> None:
        """One decode call and the tokens that went into it."""
        self._step.observe(seconds)
        self._batch.observe(tokens)

    def count_prompt(self, tokens: int, cached: int = 0) -> None:
        """A request was admitted; the state of `cached` of its prompt's tokens was still there."""
        self._prompt += tokens
        self._cached += cached
        self._hits += cached > 0
        self._misses += cached == 0

    def count_generated(self, tokens: int = 1) -> None:
        self._generated += tokens

    def count_preemption(self) -> None:
        """A running request was set aside for another."""
        self._preempted += 1

    def count_finished(self, how: How) -> None:
        self._finished[how] += 1

    @property
    def beats(self) -> int:
        """How often the thread has beaten; what does not grow does not live."""
        return self._beats

    @property
    def silent(self) -> float:
        """Seconds since the last beat."""
        return self._clock() - self._last_beat

    def snapshot(self) -> worker_pb2.HeartbeatResponse:
        load, backend = self._load, self._backend
        return worker_pb2.HeartbeatResponse(
            steps=self._step.count,
            running=load.running,
            waiting=load.waiting,
            parked=load.parked,
            slots=self._slots,
            kv_tokens=load.kv_tokens,
            kv_capacity=self._kv_capacity,
            prefix_bytes=load.prefix_bytes,
            counters=self._counters(),
            times=worker_pb2.WorkerTimes(
                queue=self._queue.to_proto(),
                first_token=self._first_token.to_proto(),
                inter_token=self._inter_token.to_proto(),
                step=self._step.to_proto(),
                batch_tokens=self._batch.to_proto(),
            ),
            backend=worker_pb2.WorkerBackend(
                cpu=backend.cpu,
                features=backend.features,
                gpu_layers=backend.gpu_layers,
                layers=backend.layers,
                why=backend.why,
            ),
        )

    def _counters(self) -> worker_pb2.WorkerCounters:
        return worker_pb2.WorkerCounters(
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            generated_tokens=self._generated,
            prefix_hits=self._hits,
            prefix_misses=self._misses,
            preemptions=self._preempted,
            finished={how.value: count for how, count in self._finished.items() if count},
        )


class _Distribution:
    """Observations counted by upper bound, as `deltaic.v1.Histogram` has them."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """A value equal to a bound belongs to that bound's bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def to_proto(self) -> worker_pb2.Histogram:
        return worker_pb2.Histogram(bounds=self._bounds, counts=self._counts, sum=self._sum)
