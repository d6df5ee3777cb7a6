"""What one source has shown of itself: how fast it brings, how its line holds, how far it is to be believed."""

from deltaic.errors import DeltaicError
from deltaic.transfer.backoff import Backoff, Retry
from deltaic.transfer.scheduling.window import Window

LIED = 4.0
STALLED = 2.0
SLOW = 2.0
SUSPECTED = 0.75
CUT = 0.75
"""Demerits for each misdeed; a source with `_DEMOTED_FROM` or more is demoted."""

_DEMOTED_FROM = 1.0
_MOST_DEMERITS = 16.0
_HALF_LIFE_SECONDS = 15.0

_EPOCH_SECONDS = 0.5
_LONGEST_EPOCH_SECONDS = 5.0
_PIECES_A_STREAM = 8
_WEIGHT_OF_NEWS = 0.5
_BUSY = 0.75
_ENOUGH_STREAM_SECONDS = 0.1

_NARROW_AFTER = 2
_LOST_PAUSE_SECONDS = 30.0


class Score:
    """One source, measured. Times are seconds of one clock that never runs backwards."""

    def __init__(self, streams: int, retry: Retry) -> None:
        """`streams` bounds the window; `retry` says how often a line may fail in a row."""
        self.window = Window(streams)
        self.streams = 0
        """How many are open."""
        self.cuts = 0
        """How many times the line failed; streams that it took down together count once."""
        self.lost: DeltaicError | None = None
        """Why the source is given up, until it is heard again."""
        self.refused = False
        """It answers, and will not serve us."""
        self.holds_nothing = False
        """As it said itself, or it says nothing at all."""
        self.latency = 0.0
        """Seconds to the first piece of a stream, smoothed; 0 when unknown."""
        self.ready_at = 0.0
        """When its line may be tried again."""
        self.epochs = 0
        self._retry = retry
        self._backoff = Backoff(retry.first_delay, retry.longest_delay, retry.random)
        self._demerits, self._demerits_at = 0.0, 0.0
        self._rate = 0.0
        self._at = 0.0
        self._start_epoch()

    # ---- speed

    @property
    def rate(self) -> float:
        """Bytes a second that one stream brings; 0 when unknown."""
        if self._rate:
            return self._rate
        return self._bytes / self._stream_seconds if self._stream_seconds >= _ENOUGH_STREAM_SECONDS else 0.0

    def opened(self, now: float) -> None:
        """One stream more."""
        self._advance(now)
        self.streams += 1

    def closed(self, now: float) -> None:
        """One stream fewer."""
        self._advance(now)
        self.streams -= 1

    def first_piece(self, seconds: float) -> None:
        """A stream took this long to begin."""
        self.latency = self.latency + _WEIGHT_OF_NEWS * (seconds - self.latency) if self.latency else seconds

    def arrived(self, count: int, now: float) -> None:
        """Bytes came: the line works."""
        self._advance(now)
        self._bytes += count
        self._pieces += 1
        self.answered()
        if self._active >= _EPOCH_SECONDS and (
            self._pieces >= _PIECES_A_STREAM * self.streams or self._active >= _LONGEST_EPOCH_SECONDS
        ):
            self._end_epoch()

    def expected_seconds(self, size: int, otherwise: float) -> float:
        """How long `size` bytes will take in one more stream, at `otherwise` bytes a second where nothing is known."""
        return self.latency + size / max(self.rate or otherwise, 1.0)

    def _advance(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._at = max(self._at, now)
        if self.streams:
            self._active += passed
            self._stream_seconds += passed * self.streams

    def _end_epoch(self) -> None:
        news = self._bytes / max(self._stream_seconds, 1e-9)
        self._rate = self._rate + _WEIGHT_OF_NEWS * (news - self._rate) if self._rate else news
        if self._stream_seconds >= _BUSY * self.window.size * self._active:
            self.window.measured(self._bytes / self._active)
        self.epochs += 1
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._bytes = self._pieces = 0
        self._active = self._stream_seconds = 0.0

    # ---- trust

    def penalise(self, demerits: float, now: float) -> None:
        """Remember a misdeed; half of it is forgotten every 15 seconds."""
        self._demerits = min(_MOST_DEMERITS, self.demerits(now) + demerits)
        self._demerits_at = now

    def demerits(self, now: float) -> float:
        """What is remembered."""
        return float(self._demerits * 0.5 ** (max(0.0, now - self._demerits_at) / _HALF_LIFE_SECONDS))

    def is_demoted(self, now: float) -> bool:
        """Whether it gets only what nobody better can bring."""
        return self.demerits(now) >= _DEMOTED_FROM

    # ---- line

    @property
    def is_narrow(self) -> bool:
        """Whether its line fails in a row.

        Many streams share a line's bytes: on one that is cut after every megabyte none of them would complete a frame.
        """
        return self._backoff.failures >= _NARROW_AFTER

    def cut(self, error: DeltaicError, now: float) -> bool:
        """The line failed. Whether that was once too often in a row: then the source is lost for now."""
        self.cuts += 1
        self.window.cut()
        self.penalise(CUT, now)
        self.ready_at = now + self._backoff.next_delay()
        if self._backoff.failures < self._retry.failures:
            return False
        self.lost = error
        self.ready_at = now + _LOST_PAUSE_SECONDS
        return True

    def answered(self) -> None:
        """It was heard: its line works."""
        self._backoff.reset()
        if not self.refused:
            self.lost = None

    @property
    def failures(self) -> int:
        """How many times in a row the line failed."""
        return self._backoff.failures

    def refuse(self, error: DeltaicError) -> None:
        """It will not serve us, and asking again does not help."""
        self.lost, self.refused = error, True
