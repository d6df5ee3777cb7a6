"""What changes by itself and is worth a time or an entry: which revisions are loaded, and the line to the center."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from deltaic.engine.host import ModelHost
from deltaic.names import RevisionName
from edge.operation.counts import Counts
from edge.spool.journal import EVICTED, LOADED
from edge.spool.tally import Note

DISK = "disk"


class CountedHost(ModelHost):
    """A host whose loads are counted, with the seconds that they took."""

    counts: Counts | None = None

    async def serve(self, key: str, revision: RevisionName, path: Path) -> float:
        there = any(worker.spec.revision == revision for worker in self.workers())
        seconds = await super().serve(key, revision, path)
        if self.counts is not None and not there and seconds:
            self.counts.loaded(DISK, seconds)
        return seconds


class LoadedWatch:
    """Compares what is loaded with what was: `keys` as `HotSet.keys` gives them."""

    def __init__(self, keys: Callable[[], Mapping[str, RevisionName]], counts: Counts, note: Note) -> None:
        self._keys = keys
        self._counts = counts
        self._note = note
        self._before: dict[str, RevisionName] = {}

    def look(self) -> None:
        """Called at every change of the hot set, leases included, so it is quick when nothing moved."""
        now = dict(self._keys())
        if now == self._before:
            return
        loaded, before = set(now.values()), set(self._before.values())
        self._before = now
        for revision in sorted(map(str, loaded - before)):
            self._note(LOADED, revision)
        for revision in sorted(map(str, before - loaded)):
            self._counts.evictions += 1
            self._note(EVICTED, revision)


class LineWatch:
    """Since when the line is as it is. `up` is None before the first look."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        self.up: bool | None = None
        self.since = 0.0

    def look(self, up: bool) -> None:
        if up != self.up:
            self.up, self.since = up, self._clock()
