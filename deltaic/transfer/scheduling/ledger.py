"""The blobs of one fetch: which are still to come, which are on their way, what has arrived of them, who lacks them."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from deltaic.errors import DeltaicError
from deltaic.weights.digest import Digest


@dataclass(slots=True)
class Arrived:
    """The first bytes of a blob, unverified, and the sources that they came from."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    sources: frozenset[int] = frozenset()

    def add(self, data: bytes, source: int) -> None:
        self.pieces.append(data)
        self.size += len(data)
        if source not in self.sources:
            self.sources |= {source}

    def copy(self) -> "Arrived":
        """Another one of the same bytes, which are shared."""
        return Arrived(list(self.pieces), self.size, self.sources)


@dataclass(slots=True, eq=False)
class Blob:
    """One blob that is wanted."""

    digest: Digest
    lacked_by: set[int] = field(default_factory=set)
    """Sources that said that they do not hold it."""
    denied_by: set[int] = field(default_factory=set)
    """Sources that were asked for it and had to say no; they are not asked again."""
    bad_at: set[int] = field(default_factory=set)
    """Sources that sent it damaged; they are asked again only where nobody else is left."""
    copies: int = 0
    """Damaged copies so far."""
    carriers: int = 0
    """Streams that it is in now."""
    whole: bool = False
    left: Arrived = field(default_factory=Arrived)
    """What a stream that ended has left of it."""
    one_source_only: bool = False
    """A copy from several sources was damaged, and nobody knows whose part: the next comes from one."""

    @property
    def to_come(self) -> int:
        """Bytes that a new stream would have to bring."""
        return self.digest.size - self.left.size

    def is_held_by(self, source: int) -> bool:
        """As far as is known."""
        return source not in self.lacked_by and source not in self.denied_by


class Ledger:
    """Blobs go out with `take` and come home with `put_back`, `done` or `despair`."""

    def __init__(self, digests: Iterable[Digest], most_left_bytes: int) -> None:
        """`most_left_bytes` bounds what is kept of blobs that are in no stream."""
        self.blobs = {digest: Blob(digest) for digest in digests}
        self.total = sum(digest.size for digest in self.blobs)
        self.hopeless: dict[Digest, DeltaicError] = {}
        self.pending_bytes = self.total
        self.with_gaps: set[int] = set()
        """Sources that cannot bring every blob: they lack one, or sent one damaged."""
        self._pending = OrderedDict((blob, None) for blob in self.blobs.values())
        self._open = len(self.blobs)
        self._most_left_bytes = most_left_bytes
        self._left_bytes = 0

    @property
    def finished(self) -> bool:
        """Whether every blob has come or never will."""
        return self._open == 0

    @property
    def pending(self) -> Iterable[Blob]:
        """Those that nobody brings, the begun ones first."""
        return self._pending

    def __len__(self) -> int:
        """How many nobody brings."""
        return len(self._pending)

    def take(self, may: Callable[[Blob], bool], max_bytes: int, max_blobs: int) -> list[Blob]:
        """The next ones that `may` be brought; at least one where there is one."""
        taken: list[Blob] = []
        held = 0
        for blob in self._pending:
            if len(taken) >= max_blobs or (taken and held + blob.to_come > max_bytes):
                break
            if may(blob):
                taken.append(blob)
                held += blob.to_come
        for blob in taken:
            del self._pending[blob]
            blob.carriers += 1
            self.pending_bytes -= blob.digest.size
            self._left_bytes -= blob.left.size
        return taken

    def put_back(self, blob: Blob, arrived: Arrived | None = None) -> None:
        """A stream ended without it. What has `arrived` of it is kept where memory allows."""
        blob.carriers -= 1
        if blob.carriers or blob.whole or blob.digest in self.hopeless:
            return
        if arrived is not None:
            blob.left = arrived if self._left_bytes + arrived.size <= self._most_left_bytes else Arrived()
        self._left_bytes += blob.left.size
        self._pending[blob] = None
        self.pending_bytes += blob.digest.size
        if blob.left.size:
            # The begun ones first: no more than a few are ever in memory.
            self._pending.move_to_end(blob, last=False)

    def done(self, blob: Blob) -> None:
        """It is verified; streams that still carry it put it back for nothing."""
        blob.whole, blob.left = True, Arrived()
        self._open -= 1

    def despair(self, blob: Blob, error: DeltaicError) -> None:
        """It cannot be had."""
        if blob in self._pending:
            del self._pending[blob]
            self.pending_bytes -= blob.digest.size
            self._left_bytes -= blob.left.size
        blob.left = Arrived()
        self.hopeless[blob.digest] = error
        self._open -= 1

    def denied(self, source: int, blob: Blob) -> None:
        """The source was asked for the blob and does not hold it."""
        blob.denied_by.add(source)
        self.with_gaps.add(source)

    def sent_damaged(self, source: int, blob: Blob) -> None:
        """The source alone has brought a copy that is damaged."""
        blob.bad_at.add(source)
        self.with_gaps.add(source)

    def lacks(self, source: int, asked: Iterable[Digest], missing: Iterable[Digest]) -> None:
        """Of those `asked` for, the source holds all but the `missing` ones; what it said before is forgotten."""
        lacked = frozenset(missing)
        if lacked:
            self.with_gaps.add(source)
        for digest in asked:
            if digest in lacked:
                self.blobs[digest].lacked_by.add(source)
            else:
                self.blobs[digest].lacked_by.discard(source)
