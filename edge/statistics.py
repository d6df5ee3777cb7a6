"""What became of the requests: totals since the start, and counts by model and minute for the index.

The numbers here are the truth of this node. The index shows them to the branch; a hot-set policy that wants a rate
(requests a second, exponentially weighted) reads the minutes, the newest last.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from deltaic.v1 import fleet_pb2

KEEP_MINUTES = 60
MAX_BUCKETS = 10_000


class Outcome(StrEnum):
    """What became of one request."""

    ANSWERED = "answered"
    FORWARDED = "forwarded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One model in one minute; `minute` counts from the epoch."""

    minute: int
    model: str


class RequestStatistics:
    """Counts, in memory bounded by KEEP_MINUTES and MAX_BUCKETS."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        self._totals: Counter[Outcome] = Counter()
        self._buckets: OrderedDict[Bucket, Counter[Outcome]] = OrderedDict()
        self._dirty: set[Bucket] = set()

    def record(self, model: str, outcome: Outcome) -> None:
        """Count one request for the model called `model` (the bare word)."""
        bucket = Bucket(int(self._clock() // 60), model)
        self._totals[outcome] += 1
        self._buckets.setdefault(bucket, Counter())[outcome] += 1
        self._dirty.add(bucket)
        self._forget(bucket.minute - KEEP_MINUTES)

    def minutes(self, model: str) -> dict[int, dict[str, int]]:
        """Minute (from the epoch) -> outcome -> requests, of one model, the newest last."""
        return {bucket.minute: self._counts(bucket) for bucket in self._buckets if bucket.model == model}

    def totals(self) -> fleet_pb2.RequestCounts:
        """All requests since the node started, as reports carry them."""
        return fleet_pb2.RequestCounts(**{outcome.value: self._totals[outcome] for outcome in Outcome})

    def take_changed(self) -> dict[Bucket, dict[str, int]]:
        """Buckets that changed since the last take, with their whole counts, so that writing one twice does no harm."""
        changed, self._dirty = self._dirty, set()
        return {bucket: self._counts(bucket) for bucket in sorted(changed) if bucket in self._buckets}

    def mark_all_changed(self) -> None:
        """Whoever took the changes has lost them: give everything again."""
        self._dirty = set(self._buckets)

    def _counts(self, bucket: Bucket) -> dict[str, int]:
        return {outcome.value: count for outcome, count in self._buckets[bucket].items()}

    def _forget(self, before: int) -> None:
        while self._buckets and (len(self._buckets) > MAX_BUCKETS or next(iter(self._buckets)).minute < before):
            self._buckets.popitem(last=False)
