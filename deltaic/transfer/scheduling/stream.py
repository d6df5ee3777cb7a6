"""One stream from one source: the blobs that it brings in order, and what has come of the present one."""

from deltaic.transfer.scheduling.ledger import Arrived, Blob
from deltaic.transfer.source import WantedRange


class Stream:
    """As the scheduler sees it. Times are seconds."""

    def __init__(self, source: int, blobs: list[Blob], *, now: float, cuts: int) -> None:
        self.source = source
        self.blobs = blobs
        """In the order in which they come; the last ones may be taken away."""
        self.cuts = cuts
        """How often the source's line had failed when this began."""
        self.began = now
        self.heard = now
        self.bytes = 0
        self.ended = False
        self.keeping = False
        """Whether the present blob has arrived and is being verified; until that is known nobody stops the stream."""
        self._starts = [blob.left for blob in blobs]
        self.ranges = [WantedRange(blob.digest, blob.left.size) for blob in blobs]
        """What to ask the source for."""
        self.at = 0
        self.arrived = self._start()

    @property
    def current(self) -> Blob | None:
        """The blob that is coming now."""
        return self.blobs[self.at] if self.at < len(self.blobs) else None

    @property
    def later(self) -> list[Blob]:
        """The blobs after it."""
        return self.blobs[self.at + 1 :]

    @property
    def is_whole(self) -> bool:
        """Whether it still brings everything that was asked for, so that the source ends it."""
        return len(self.blobs) == len(self.ranges)

    @property
    def to_come(self) -> int:
        """Bytes that are still to come."""
        coming = self.current.digest.size - self.arrived.size if self.current else 0
        starts = (self._starts[index].size for index in range(self.at + 1, len(self.blobs)))
        return coming + sum(blob.digest.size for blob in self.later) - sum(starts)

    def rate(self, now: float) -> float:
        """Bytes a second since it began."""
        return self.bytes / max(now - self.began, 1e-3)

    def add(self, data: bytes, now: float) -> None:
        """The next bytes of the present blob."""
        self.heard = now
        if data:
            self.bytes += len(data)
            self.arrived.add(data, self.source)

    def next_blob(self, now: float) -> None:
        """The present blob is done with."""
        self.heard = now
        self.keeping = False
        self._starts[self.at] = Arrived()
        self.at += 1
        self.arrived = self._start()

    def give_up_last(self) -> Blob:
        """The last blob is brought by somebody else."""
        return self.blobs.pop()

    def start_of(self, blob: Blob) -> Arrived:
        """What had arrived of one of the later blobs before this stream began."""
        return self._starts[self.blobs.index(blob)]

    def _start(self) -> Arrived:
        """What the present blob begins with."""
        return self._starts[self.at] if self.at < len(self.blobs) else Arrived()
