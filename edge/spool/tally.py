"""Requests as the log has them: how many, of which revision, every few minutes; never who asked what."""

import asyncio
from collections import Counter
from collections.abc import Callable

PERIOD_SECONDS = 300.0
_MOST_KINDS = 1_000
_OTHERS = "others"

Note = Callable[..., None]


class Tally:
    """Counts by action, resource and one more fact; `note` takes them as `Journal.note` does."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def count(self, action: str, resource: str, fact: str, value: str) -> None:
        """One more. Of too many kinds at once, the rest are counted together."""
        key = (action, resource, fact, value)
        if key not in self._counts and len(self._counts) >= _MOST_KINDS:
            key = (action, _OTHERS, fact, _OTHERS)
        self._counts[key] += 1

    def flush(self) -> None:
        """Say what was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        for (action, resource, fact, value), count in sorted(counts.items()):
            self._note(action, resource, **{"count": str(count), fact: value})

    async def run(self) -> None:
        """Flush every PERIOD_SECONDS, and when cancelled."""
        try:
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                self.flush()
        finally:
            self.flush()
