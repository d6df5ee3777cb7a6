"""The thread that owns the native context. Everything else speaks to it through one queue.

Each turn of its loop: take commands, drop what is cancelled or too late, schedule, decode, sample, deliver.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from deltaic.engine.errors import OutOfTime, QueueFull, WorkerStopping
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.answering import Answer, Event, Job
from deltaic.engine.worker.context import Context, DecodeFailed
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.placing import Placed, load_placed
from deltaic.engine.worker.sampling import SamplerChain
from deltaic.engine.worker.scheduler import Feed, Scheduler, Sequence, Step

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the rest of the worker may know of the model: `model` for tokenising, and the tokens of one slot."""

    model: Model
    context_tokens: int


@dataclass(frozen=True, slots=True)
class _Submit:
    identifier: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Cancel:
    identifier: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Command = _Submit | _Cancel | _Stop


@dataclass(slots=True)
class Executor:
    """Start it, await `loaded`, then submit and cancel from any thread.

    `on_death` is called from the thread when the model cannot be loaded or decoded; the process should end then.
    """

    path: Path
    settings: EngineSettings
    on_death: Callable[[BaseException], None]
    loaded: "Future[Loaded]" = field(default_factory=Future)
    _commands: "queue.SimpleQueue[_Command]" = field(default_factory=queue.SimpleQueue)
    _answers: dict[int, Answer] = field(default_factory=dict)
    _scheduler: Scheduler = field(init=False)
    _thread: threading.Thread = field(init=False)
    _model: Model = field(init=False)
    _context: Context = field(init=False)
    placed: Placed = field(init=False)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(self.settings.slots, self.settings.prefill_chunk, self.settings.queue)
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, identifier: int, job: Job, arrived: float, deliver: Callable[[list[Event]], None]) -> None:
        """Queue a job. `deliver` is called from the executor's thread, at most once a step."""
        self._commands.put(_Submit(identifier, Answer(job, deliver, arrived)))

    def cancel(self, identifier: int) -> None:
        """Free what the job holds before the next step; nothing is delivered any more."""
        self._commands.put(_Cancel(identifier))

    def stop(self) -> None:
        """End the thread after the step that runs now; jobs still there fail with WorkerStopping."""
        self._commands.put(_Stop())
        self._thread.join()

    def _run(self) -> None:
        try:
            self._load()
            while self._turn():
                continue
        except BaseException as error:  # noqa: BLE001  # handed to whoever ends the process
            self.on_death(error)
            return
        for identifier, answer in list(self._answers.items()):
            self._end(identifier)
            answer.deliver([WorkerStopping("the worker is stopping", hint="send the request again")])
        self._context.close()
        self._model.close()

    def _load(self) -> None:
        """Load, then decode one token: a worker that says it serves has served."""
        log = NativeLog()
        log.install()
        started = time.monotonic()
        self._model, self._context, self.placed = load_placed(self.path, self.settings, log, self._warm)
        _log.info(
            "model.loaded",
            file=self.path.name,
            seconds=round(time.monotonic() - started, 3),
            slots=self.settings.slots,
            context_tokens=self._context.context_tokens,
            threads=self.settings.resolved_threads(),
        )
        self.loaded.set_result(Loaded(self._model, self._context.context_tokens))

    def _warm(self, model: Model) -> Context:
        """A context that has decoded a token. Raises WorkerFailed, DecodeFailed."""
        context = Context(model, self.settings)
        try:
            context.decode(Step(feeds=(Feed(0, 0, 0, (model.first_token,), sample=True),)))
        except DecodeFailed:
            context.close()
            raise
        context.clear(0)
        return context

    def _turn(self) -> bool:
        """One step. False when told to stop."""
        if not self._take_commands():
            return False
        now = time.monotonic()
        for identifier in self._scheduler.expired(now):
            answer = self._end(identifier)
            if answer:
                answer.deliver([OutOfTime("the deadline passed before the answer was complete")])
        step = self._scheduler.schedule()
        for slot in step.cleared:
            self._context.clear(slot)
        for identifier in step.admitted:
            self._admit(identifier, now)
        if step.feeds:
            self._step(step)
        return True

    def _take_commands(self) -> bool:
        """All that have arrived; waits for one when there is nothing to decode."""
        wait = self._scheduler.idle
        while wait or not self._commands.empty():
            wait = False
            match self._commands.get():
                case _Submit(identifier, answer):
                    self._accept(identifier, answer)
                case _Cancel(identifier):
                    self._end(identifier)
                case _Stop():
                    return False
        return True

    def _accept(self, identifier: int, answer: Answer) -> None:
        job = answer.job
        try:
            self._scheduler.add(Sequence(identifier, job.prompt, job.budget, job.deadline))
        except QueueFull as error:
            answer.deliver([error])
        else:
            self._answers[identifier] = answer

    def _admit(self, identifier: int, now: float) -> None:
        answer = self._answers[identifier]
        answer.admitted = now
        answer.sampler = SamplerChain(answer.job.sampling, self._model.vocabulary_size, answer.job.prompt)

    def _step(self, step: Step) -> None:
        outputs = self._context.decode(step)
        sampled, ended = {}, []
        for identifier, output in outputs.items():
            answer = self._answers[identifier]
            assert answer.sampler is not None
            token = sampled[identifier] = answer.sampler.sample(self._context.pointer, output)
            piece = None if self._model.ends(token) else self._model.piece(token)
            events, complete = answer.take(piece, time.monotonic())
            if events:
                answer.deliver(events)
            if complete:
                ended.append(identifier)
        self._scheduler.update(step, sampled, ())
        for identifier in ended:
            self._end(identifier)

    def _end(self, identifier: int) -> Answer | None:
        """Take a job out, wherever it is, and free what it holds."""
        self._scheduler.remove(identifier)
        answer = self._answers.pop(identifier, None)
        if answer:
            answer.close()
        return answer
