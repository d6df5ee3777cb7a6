"""Revisions whose worker did not start: each try costs memory and seconds, so the next one waits."""

from collections.abc import Callable

from deltaic.engine.errors import WorkerFailed
from deltaic.names import RevisionName

RETRY_SECONDS = 30.0


class Failures:
    """What failed a short while ago, and why; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[RevisionName, tuple[float, WorkerFailed]] = {}

    def recent(self, revision: RevisionName) -> WorkerFailed | None:
        """Why it did not start, until it may be tried again."""
        until, error = self._until.get(revision, (0.0, None))
        return error if self._clock() < until else None

    def add(self, revision: RevisionName, error: WorkerFailed) -> None:
        """It failed now. An error that was only told once more to somebody else does not count."""
        if self.recent(revision) is None:
            self._until[revision] = (self._clock() + RETRY_SECONDS, error)

    def forgive(self, revision: RevisionName) -> None:
        self._until.pop(revision, None)
