"""What this edge counts of itself since it started: requests by place, loads, bytes that came over lines."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum

from deltaic.transfer.source import Piece, Source, WantedRange
from deltaic.v1 import fleet_pb2
from deltaic.weights.digest import Digest


class Place(StrEnum):
    """Where a request was answered."""

    LOCAL = "local"
    NEIGHBOUR = "neighbour"
    CENTER = "center"
    CACHE = "cache"
    NOWHERE = "nowhere"


class Ended(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By policy, for lack of room, while draining, or because the line is cut."""
    FAILED = "failed"
    """An error that was not the client's."""
    INVALID = "invalid"
    """An error that was the client's."""
    GONE = "gone"
    """The client went away."""


@dataclass
class Counts:
    """Written on the loop; any thread may read a copy."""

    requests: Counter[tuple[Ended, Place]] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    """By tier, as are the seconds."""
    load_seconds: Counter[str] = field(default_factory=Counter)
    evictions: int = 0
    wire_bytes: Counter[str] = field(default_factory=Counter)
    """By the name of the source."""
    saved_by_deltas: int = 0
    _updates: dict[str, str] = field(default_factory=dict)

    def loaded(self, tier: str, seconds: float) -> None:
        """A worker has loaded a model that was in this tier."""
        self.loads[tier] += 1
        self.load_seconds[tier] += seconds  # type: ignore[assignment]  # a Counter adds what it is given

    def updated(self, state: fleet_pb2.ModelState) -> None:
        """An update is complete; what deltas made less what came over the line was saved. Each counts once."""
        progress = state.progress
        if progress.delta_bytes and self._updates.get(state.channel) != state.serving_revision:
            self._updates[state.channel] = state.serving_revision
            came = progress.reused_bytes + progress.wire_bytes
            self.saved_by_deltas += max(0, progress.full_bytes - came)

    def places(self) -> fleet_pb2.PlaceCounts:
        answered = {place.value: self.requests[Ended.ANSWERED, place] for place in Place if place != Place.NOWHERE}
        return fleet_pb2.PlaceCounts(**answered, refused=self._of(Ended.REFUSED), failed=self._of(Ended.FAILED))

    def fetched(self, upstream: str) -> fleet_pb2.FetchCounts:
        """`upstream` is the name of the source that is the center."""
        by_source = dict(self.wire_bytes)
        peers = sum(count for name, count in by_source.items() if name != upstream)
        return fleet_pb2.FetchCounts(wire_bytes=by_source, saved_by_deltas=self.saved_by_deltas, saved_by_peers=peers)

    def _of(self, ended: Ended) -> int:
        return sum(self.requests[ended, place] for place in Place)


class CountedSource:
    """A source whose bytes on the line are counted."""

    def __init__(self, source: Source, counts: Counts) -> None:
        self._source = source
        self._counts = counts

    @property
    def name(self) -> str:
        return self._source.name

    async def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._source.read(ranges)) as pieces:
            async for piece in pieces:
                self._counts.wire_bytes[self.name] += piece.wire_bytes
                yield piece

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        return await self._source.missing(digests)
