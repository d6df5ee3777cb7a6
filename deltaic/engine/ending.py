"""How a worker process ended."""

import signal
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What ended a process."""

    DIED = "died"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Ending:
    """`text` is for people."""

    cause: Cause
    text: str


def ending_of(status: int, last_words: str, *, explained: bool, out_of_memory: bool) -> Ending:
    """Judge by the exit status (negative for a signal) and what the process said last.

    `explained` when it meant that as its reason; else it may be a crash's. `out_of_memory` when the kernel counted a
    kill.
    """
    if explained:
        return Ending(Cause.DIED, last_words)
    if status == -signal.SIGKILL and out_of_memory:
        return Ending(Cause.OUT_OF_MEMORY, "it was ended by SIGKILL: the kernel had run out of memory")
    how = f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it exited with status {status}"
    return Ending(Cause.DIED, f"{how} ({last_words})" if last_words else how)
