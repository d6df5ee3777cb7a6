"""What other threads tell the executor."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from deltaic.engine.worker.answering import Deliver
from deltaic.engine.worker.embedding import EmbedJob
from deltaic.engine.worker.job import Job


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer a job, whose caller gets events by `deliver`. `arrived` is monotonic seconds."""

    identifier: int
    job: Job
    arrived: float
    deliver: Deliver


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed texts."""

    identifier: int
    job: EmbedJob


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a job."""

    identifier: int


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Make a LoRA adapter usable."""

    name: str
    path: Path
    done: "Future[None]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Refuse a LoRA adapter to further requests."""

    name: str
    done: "Future[None]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread."""


Command = Ask | Embed | Cancel | LoadAdapter | UnloadAdapter | Stop
