"""A fetch from simulated sources: steps of time, no clock, no network. What was sent, when, and what it was worth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deltaic.errors import DeltaicError, NotFound, Unavailable
from deltaic.transfer.backoff import Retry
from deltaic.transfer.scheduling.scheduler import Scheduler
from deltaic.transfer.scheduling.stream import Stream
from deltaic.weights.digest import Digest
from deltaic.weights.errors import DigestMismatch

MIB = 1 << 20
STEP = 0.05
_PIECE = bytes(256 * 1024)
STEADY = Retry(random=lambda: 1.0)


def blobs(count: int, size: int = MIB) -> list[Digest]:
    return [Digest(index.to_bytes(32, "big"), size) for index in range(count)]


@dataclass
class Sim:
    """One source. `rate` in bytes a second, shared by its streams; `stream_rate` bounds each of them."""

    rate: float = 10 * MIB
    latency: float = 0.1
    stream_rate: float = float("inf")
    lacks: Callable[[Digest], bool] = lambda _digest: False
    lies: Callable[[Digest], bool] = lambda _digest: False
    cut_at: Sequence[float] = ()
    silent_from: float = float("inf")
    dead: bool = False
    sent: int = 0
    asked: Counter[Digest] = field(default_factory=Counter)
    denied: Counter[Digest] = field(default_factory=Counter)
    most_streams: int = 0


class Run:
    """`Run(digests, sources).to_end()` fetches; every number is seconds or bytes."""

    def __init__(self, digests: Sequence[Digest], sources: Sequence[Sim], streams: int = 8) -> None:
        self.digests = digests
        self.sources = sources
        self.now = 100.0
        self.limit = streams
        self.scheduler = Scheduler(digests, [f"source {n}" for n in range(len(sources))], streams=streams, retry=STEADY)
        self.verified: dict[Digest, float] = {}
        self.arrived: Counter[Digest] = Counter()
        self.after_verified = 0
        self.most_streams = 0
        self._due: dict[Stream, float] = {}
        self._credit: dict[Stream, float] = {}
        self._tainted: dict[Stream, bool] = {}

    @property
    def seconds(self) -> float:
        return self.now - 100.0

    @property
    def sent(self) -> int:
        return sum(source.sent for source in self.sources)

    def ask_all_but_the_first(self) -> "Run":
        """As a collector does before it uses them."""
        others = range(1, len(self.sources))
        self.scheduler.ask_first(others)
        for index in others:
            source, asked = self.sources[index], self.scheduler.open
            if source.dead:
                self.scheduler.not_told(index, Unavailable("nobody there"), self.now)
            else:
                self.scheduler.told(index, asked, [digest for digest in asked if source.lacks(digest)])
        return self

    def to_end(self, limit: float = 600.0) -> "Run":
        """Raises what the scheduler gives as the reason of failure; AssertionError when it never ends."""
        while True:
            self._start_streams()
            if (error := self.scheduler.error()) is not None:
                raise error
            if self.scheduler.finished:
                return self
            self.step()
            assert self.seconds < limit, "the fetch does not end"

    def step(self) -> None:
        """Let a moment pass."""
        self.now += STEP
        for index, source in enumerate(self.sources):
            streams = [each for each in self.scheduler.streams if each.source == index]
            if any(self.now - STEP < 100.0 + at <= self.now for at in source.cut_at):
                for stream in streams:
                    self._fail(stream, Unavailable("cut"))
                continue
            if source.dead:
                for stream in streams:
                    self._fail(stream, Unavailable("nobody there"))
                continue
            self._deliver(source, streams)

    def _start_streams(self) -> None:
        self.scheduler.overdue(self.now)
        while (stream := self.scheduler.next_stream(self.now)) is not None:
            source = self.sources[stream.source]
            source.asked.update(each.digest for each in stream.ranges)
            self._due[stream] = self.now + source.latency
            self._credit[stream] = 0.0
            source.most_streams = max(source.most_streams, self.scheduler.scores[stream.source].streams)
        self.most_streams = max(self.most_streams, len(self.scheduler.streams))

    def _deliver(self, source: Sim, streams: list[Stream]) -> None:
        flowing = [each for each in streams if self._due[each] <= self.now and self.seconds < source.silent_from]
        for stream in flowing:
            share = min(source.rate / len(flowing), source.stream_rate)
            self._credit[stream] += share * STEP
            while not stream.ended and self._credit[stream] > 0 and self._one_piece(source, stream):
                pass

    def _one_piece(self, source: Sim, stream: Stream) -> bool:
        """Send a piece; False when the stream waits or is over."""
        blob = stream.current
        if blob is None or not self.scheduler.is_wanted(stream):
            self.scheduler.end(stream, self.now)
            return False
        if source.lacks(blob.digest):
            source.denied[blob.digest] += 1
            self._fail(stream, NotFound("not here"))
            return False
        size = min(len(_PIECE), blob.digest.size - stream.arrived.size)
        if size > self._credit[stream]:
            return False
        self._credit[stream] -= size
        source.sent += size
        self.arrived[blob.digest] += size
        if blob.digest in self.verified:
            self.after_verified += size
        self.scheduler.heard(stream, _PIECE[:size], self.now)
        if stream.arrived.size == blob.digest.size:
            self._complete(stream)
        return True

    def _complete(self, stream: Stream) -> None:
        blob = stream.current
        assert blob is not None
        if any(self.sources[each].lies(blob.digest) for each in stream.arrived.sources):
            error = DigestMismatch("bytes do not match")
            self.scheduler.damaged(stream, blob, error, self.now)
        else:
            self.verified[blob.digest] = self.now
            self.scheduler.verified(stream, blob, self.now)
        if not self.scheduler.is_wanted(stream) or stream.current is None:
            self.scheduler.end(stream, self.now)

    def _fail(self, stream: Stream, error: DeltaicError) -> None:
        self.scheduler.failed(stream, error, self.now)
