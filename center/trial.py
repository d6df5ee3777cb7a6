"""The trial load: does this file become a model that decodes a token? Found out in a process of its own.

A file that passes vetting may still make native code refuse or abort. Here that costs one process, and the publisher
reads why; on an edge it would cost the branch its next version.
"""

from pathlib import Path

from center.errors import TrialLoadFailed
from deltaic.engine.errors import WorkerFailed
from deltaic.engine.settings import EngineSettings
from deltaic.engine.supervisor import Worker
from deltaic.engine.worker_process import WorkerSpec
from deltaic.names import RevisionName

_CONTEXT_TOKENS = 256


class WorkerTrial:
    """Starts a worker with one slot and a short context: the memory of the weights and little more."""

    def __init__(self, run_dir: Path, settings: EngineSettings, node: str) -> None:
        self._run_dir = run_dir
        self._settings = settings.model_copy(update={"slots": 1, "context_tokens": _CONTEXT_TOKENS})
        self._node = node

    async def __call__(self, revision: RevisionName, path: Path) -> None:
        """Raises TrialLoadFailed with the line that says why. One trial at a time."""
        worker = Worker(WorkerSpec(revision, path, self._node, "center", self._settings), self._run_dir, "trial")
        try:
            await worker.start()
        except WorkerFailed as error:
            raise TrialLoadFailed(
                f"the engine does not load this file: {error.message}",
                hint=error.hint or "check that llama.cpp loads it, then publish it again",
            ) from None
        await worker.stop()
