"""The end of a fetch, when nothing is left to hand out: who takes what over from whom.

A source with room takes over the last blob of the slowest stream of another source, where it has not begun. Where the
slow stream has only one blob left, that one is brought twice, from the byte that its carrier has reached; whoever is
first stops the other. What is brought twice is bounded.
"""

from collections.abc import Callable, Sequence

from deltaic.transfer.scheduling.ledger import Arrived, Blob
from deltaic.transfer.scheduling.score import Score
from deltaic.transfer.scheduling.stream import Stream

_WORTH_TAKING_SECONDS = 0.1
_WORTH_A_COPY_SECONDS = 1.0
_WORTH_A_COPY = 0.5
_DOUBLED_SHARE = 20
_DOUBLED_BYTES = 16 << 20

UNKNOWN_RATE = 4 << 20
"""Bytes a second to expect of a stream while no source has been measured."""


class Relief:
    """Finds the blob that a source with room should bring instead of, or beside, a slower stream."""

    def __init__(self, scores: Sequence[Score], total: int) -> None:
        """`total` is the bytes of the whole fetch, of which a twentieth (or 16 MiB) may be asked for twice."""
        self._scores = scores
        self._budget = max(_DOUBLED_BYTES, total // _DOUBLED_SHARE)
        self.doubled_bytes = 0

    def find(
        self, source: int, streams: Sequence[Stream], may_bring: Callable[[Blob], bool], now: float
    ) -> Blob | None:
        """The blob, its `left` set to what has arrived of it, and already taken from the other stream or doubled."""
        others = [each for each in streams if each.source != source and each.current is not None and not each.keeping]
        by_need = sorted(((self._seconds_left(each, now), each) for each in others), key=lambda each: -each[0])
        for seconds, stream in by_need:
            blob = stream.blobs[-1]
            if may_bring(blob) and (self._taken(source, stream, seconds) or self._doubled(source, stream, seconds)):
                return blob
        return None

    def _taken(self, source: int, stream: Stream, seconds: float) -> bool:
        if not stream.later or seconds < _WORTH_TAKING_SECONDS:
            return False
        start = stream.start_of(stream.blobs[-1])
        if self._ours(source, stream.blobs[-1], start) >= seconds:
            return False
        stream.give_up_last().left = start
        return True

    def _doubled(self, source: int, stream: Stream, seconds: float) -> bool:
        blob = stream.current
        if blob is None or stream.later or blob.carriers != 1 or seconds < _WORTH_A_COPY_SECONDS:
            return False
        start = Arrived() if blob.one_source_only else stream.arrived.copy()
        more = blob.digest.size - start.size
        if self.doubled_bytes + more > self._budget or self._ours(source, blob, start) > _WORTH_A_COPY * seconds:
            return False
        self.doubled_bytes += more
        blob.left = start
        blob.carriers += 1
        return True

    def _ours(self, source: int, blob: Blob, start: Arrived) -> float:
        typical = max(each.rate for each in self._scores) or UNKNOWN_RATE
        return self._scores[source].expected_seconds(blob.digest.size - start.size, typical)

    def _seconds_left(self, stream: Stream, now: float) -> float:
        """One that is silent seems slower and slower."""
        if not stream.bytes:
            return max(0.0, now - stream.began - self._scores[stream.source].latency)
        return stream.to_come / max(stream.rate(now), 1.0)
