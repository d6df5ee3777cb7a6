"""The trial load: does this file become a model that decodes a token? Found out in a process of its own.

A file that passes vetting may still make native code refuse or abort. Here that costs one process, and the publisher
reads why; on an edge it would cost the branch its next version.
"""

import asyncio
from pathlib import Path

from center.errors import TrialLoadFailed, TrialLoadUnfinished
from deltaic.engine.errors import NotEnoughMemory, WorkerFailed
from deltaic.engine.settings import EngineSettings
from deltaic.engine.supervisor import Worker
from deltaic.engine.worker_process import WorkerSpec
from deltaic.names import RevisionName

_CONTEXT_TOKENS = 256
_KILLED = "it was ended by SIGKILL"
_TRY_AGAIN = "publish it again when the center has more to spare, or raise engine.start_timeout there"


class WorkerTrial:
    """Starts a worker with one slot and a short context: the memory of the weights and little more."""

    def __init__(self, run_dir: Path, settings: EngineSettings, node: str) -> None:
        self._run_dir = run_dir
        self._seconds = settings.start_timeout
        # The limit is kept here, where a late worker can be told from one that refuses the file.
        changes = {"slots": 1, "context_tokens": _CONTEXT_TOKENS, "start_timeout": 2 * self._seconds}
        self._settings = settings.model_copy(update=changes)
        self._node = node

    async def __call__(self, revision: RevisionName, path: Path) -> None:
        """One trial at a time.

        Raises TrialLoadFailed with the line that says why, TrialLoadUnfinished when it is not known whether it loads.
        """
        worker = Worker(WorkerSpec(revision, path, self._node, "center", self._settings), self._run_dir, "trial")
        try:
            async with asyncio.timeout(self._seconds):
                await worker.start()
        except TimeoutError:
            raise TrialLoadUnfinished(
                f"the engine did not load this file within {self._seconds:g} seconds", hint=_TRY_AGAIN
            ) from None
        except WorkerFailed as error:
            raise _meaning(error) from None
        await worker.stop()


def _meaning(error: WorkerFailed) -> TrialLoadFailed | TrialLoadUnfinished:
    """No file keeps a process from starting, and none makes it end by SIGKILL: that is the kernel, out of memory."""
    if isinstance(error, NotEnoughMemory) or isinstance(error.__cause__, OSError) or _KILLED in error.message:
        return TrialLoadUnfinished(f"the engine could not try this file: {error.message}", hint=_TRY_AGAIN)
    return TrialLoadFailed(
        f"the engine does not load this file: {error.message}",
        hint=error.hint or "check that llama.cpp loads it, then publish it again",
    )
