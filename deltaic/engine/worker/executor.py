"""The thread that owns the native context. Everything else speaks to it through one queue.

Each turn of its loop: take commands, drop what is cancelled or too late, give out slots, decode a step, choose tokens,
read a piece of what is to be embedded, post what there is to say.
"""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from deltaic.engine.errors import OutOfTime, QueueFull, WorkerStopping
from deltaic.engine.scheduling.request import Request, Scope
from deltaic.engine.scheduling.scheduler import Step
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.answering import Answer, Deliver, Event
from deltaic.engine.worker.commands import Ask, Cancel, Command, Embed, LoadAdapter, Stop, UnloadAdapter
from deltaic.engine.worker.embedding import EmbedJob
from deltaic.engine.worker.job import Job
from deltaic.engine.worker.loading import Parts, load
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.process_limits import name_thread
from deltaic.engine.worker.sampling import Sampler
from deltaic.engine.worker.vitals import IDLE_SECONDS, Backend, How, Load, Vitals
from deltaic.errors import DeltaicError
from deltaic.runtime.slices import compute_at_length
from deltaic.v1 import inference_pb2

_HOW = {
    inference_pb2.Completion.FINISH_REASON_STOP: How.STOP,
    inference_pb2.Completion.FINISH_REASON_LENGTH: How.LENGTH,
    inference_pb2.Completion.FINISH_REASON_TOOL_CALLS: How.TOOL_CALLS,
}

Post = list[tuple[Deliver, list[Event]]]
"""What one turn has to say to whom."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the rest of the worker may know of the model: `model` for tokenising, and the tokens of one slot."""

    model: Model
    context_tokens: int


def _at_once(post: Post) -> None:
    for deliver, events in post:
        deliver(events)


@dataclass(slots=True)
class Executor:
    """Start it, await `loaded`, then submit and cancel from any thread.

    `on_death` is called from the thread when the model cannot be loaded or decoded; the process should end then. `post`
    is called from the thread with all that a turn has to deliver.
    """

    path: Path
    settings: EngineSettings
    on_death: Callable[[BaseException], None]
    post: Callable[[Post], None] = _at_once
    revision: str = ""
    loaded: "Future[Loaded]" = field(default_factory=Future)
    vitals: Vitals = field(default_factory=Vitals)
    _commands: "queue.SimpleQueue[Command]" = field(default_factory=queue.SimpleQueue)
    _answers: dict[int, list[Answer]] = field(default_factory=dict)
    _outbox: Post = field(default_factory=list)
    _thread: threading.Thread = field(init=False)
    _parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)

    # ---- from any thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, identifier: int, job: Job, arrived: float, deliver: Deliver) -> None:
        """Queue a job. `deliver` gets its events through `post`, at most once a step."""
        self._commands.put(Ask(identifier, job, arrived, deliver))

    def embed(self, identifier: int, job: EmbedJob) -> None:
        self._commands.put(Embed(identifier, job))

    def cancel(self, identifier: int) -> None:
        """Free what the job holds before the next step; nothing is delivered any more."""
        self._commands.put(Cancel(identifier))

    def load_adapter(self, name: str, path: Path) -> "Future[None]":
        """Between two steps. Fails with what `AdapterShelf.load` raises."""
        command = LoadAdapter(name, path)
        self._commands.put(command)
        return command.done

    def unload_adapter(self, name: str) -> "Future[None]":
        """Between two steps. Fails with what `AdapterShelf.unload` raises."""
        command = UnloadAdapter(name)
        self._commands.put(command)
        return command.done

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that requests may use."""
        return self._parts.adapters.names if self.loaded.done() else ()

    def stop(self) -> None:
        """End the thread after the step that runs now; jobs still there fail with WorkerStopping."""
        self._commands.put(Stop())
        self._thread.join()

    # ---- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        name_thread("executor")
        compute_at_length()
        try:
            self._load()
            while self._take_commands():
                self._turn()
        except BaseException as error:  # noqa: BLE001  # handed to whoever ends the process
            self.on_death(error)
            return
        for identifier in list(self._answers):
            self._fail(identifier, WorkerStopping("the worker is stopping", hint="send the request again"), How.FAILED)
        self._send()
        self._parts.leave_behind()
        self._parts.close()

    def _load(self) -> None:
        self._parts = parts = load(self.path, self.settings, self.revision)
        parts.remember()
        placed, slots = parts.placed, self.settings.slots
        backend = Backend(
            placed.backend.cpu, placed.backend.features, placed.plan.gpu_layers, placed.plan.layers, placed.why
        )
        self.vitals.describe(slots, slots * parts.context.context_tokens, backend)
        self.loaded.set_result(Loaded(parts.model, parts.context.context_tokens))

    def _turn(self) -> None:
        now = time.monotonic()
        self._drop_expired(now)
        self._admit(now)
        step = self._parts.scheduler.schedule()
        if step.feeds:
            self._step(step)
        if not self._parts.embedder.idle:
            self._embed_some()
        self._send()
        self.vitals.beat(time.monotonic(), self._load_now())

    def _send(self) -> None:
        if self._outbox:
            post, self._outbox = self._outbox, []
            self.post(post)

    def _load_now(self) -> Load:
        scheduler = self._parts.scheduler
        return Load(
            running=scheduler.running,
            waiting=scheduler.waiting + self._parts.embedder.waiting,
            parked=scheduler.parked,
            kv_tokens=scheduler.memory.tokens,
            prefix_bytes=self._parts.states.bytes,
        )

    # ---- commands -----------------------------------------------------------------------------------------------

    def _take_commands(self) -> bool:
        """All that have arrived; waits for one, but not longer than a beat, when there is nothing to do."""
        wait = self._parts.scheduler.idle and self._parts.embedder.idle
        while wait or not self._commands.empty():
            try:
                command = self._commands.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                return True
            wait = False
            if isinstance(command, Stop):
                return False
            self._obey(command)
        return True

    def _obey(self, command: Command) -> None:
        match command:
            case Ask(identifier, job, arrived, deliver):
                self._accept(identifier, job, arrived, deliver)
            case Embed(identifier, embed_job):
                self._accept_embedding(identifier, embed_job)
            case Cancel(identifier):
                self._end(identifier, How.CANCELLED)
            case LoadAdapter(name, path, done):
                _settle(done, lambda: self._parts.adapters.load(name, path))
            case UnloadAdapter(name, done):
                _settle(done, lambda: self._parts.adapters.unload(name))

    def _accept(self, identifier: int, job: Job, arrived: float, deliver: Deliver) -> None:
        """Put all choices of a job into the queue, or say why not."""
        adapters = None
        try:
            adapters = self._parts.adapters.take(job.adapters)
            scope = Scope(job.tenant, adapters)
            requests = [
                Request((identifier, choice), job.prompt, job.budget, arrived, job.deadline, job.priority, scope)
                for choice in range(job.choices)
            ]
            self._parts.scheduler.add(requests, time.monotonic())
        except DeltaicError as error:
            self._parts.adapters.give_back(adapters or ())
            self.vitals.count_finished(How.REFUSED)
            self._outbox.append((deliver, [error]))
        else:
            self._answers[identifier] = [
                Answer(identifier, job, choice, deliver, arrived, adapters) for choice in range(job.choices)
            ]

    def _accept_embedding(self, identifier: int, job: EmbedJob) -> None:
        if self._parts.embedder.waiting > self.settings.queue:
            self.vitals.count_finished(How.REFUSED)
            error = QueueFull(
                f"{self._parts.embedder.waiting} requests already wait to be embedded",
                hint="try again in a second, or raise engine.queue",
                retry_after_ms="1000",
            )
            self._outbox.append((job.deliver, [error]))
            return
        self._parts.embedder.add(identifier, job)

    # ---- steps --------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        preempted = self._parts.scheduler.preemptions
        for request in self._parts.states.do(self._parts.scheduler.admit(now), self._parts.scheduler):
            answer = self._answer(request)
            if answer is not None and not answer.admitted:
                answer.admitted = now
                answer.cached = self._parts.scheduler.request(request).cached
                self.vitals.observe_queue(now - answer.arrived)
                self.vitals.count_prompt(len(answer.job.prompt), answer.cached)
        for _ in range(self._parts.scheduler.preemptions - preempted):
            self.vitals.count_preemption()

    def _step(self, step: Step) -> None:
        self._parts.adapters.apply(step.adapters)
        started = time.monotonic()
        outputs = self._parts.context.decode(step)
        seconds = time.monotonic() - started
        self.vitals.observe_step(seconds, step.tokens)
        sampled: dict[Hashable, int] = {}
        complete: list[Answer] = []
        for request, output in outputs.items():
            answer = self._answer(request)
            if answer is None:  # another choice of its job has just failed
                continue
            try:
                sampled[request], done = self._choose(answer, output)
            except DeltaicError as error:
                self._fail(answer.identifier, error, How.FAILED)
                continue
            if done:
                complete.append(answer)
        self._parts.scheduler.update(step, sampled, seconds)
        for answer in complete:
            self._complete(answer)

    def _choose(self, answer: Answer, output: int) -> tuple[int, bool]:
        """The next token of a choice, and whether that was its last."""
        job, context = answer.job, self._parts.context.pointer
        if answer.sampler is None:
            seed = job.sampling.seed_of(answer.choice)
            answer.sampler = Sampler(job.sampling, job.grammar, self._parts.model, job.prompt, seed)
        token = answer.sampler.sample(context, output)
        logprob = None
        if job.top_logprobs is not None:
            logprob = answer.sampler.logprobs(context, output, token, job.top_logprobs)
        answer.sampler.accept(token)
        now = time.monotonic()
        if answer.first:
            self.vitals.observe_inter_token(now - answer.last)
        else:
            self.vitals.observe_first_token(now - answer.arrived)
        self.vitals.count_generated()
        piece = None if self._parts.model.ends(token) else self._parts.model.piece(token)
        events, finished = answer.take(piece, now, logprob)
        if events:
            self._outbox.append((answer.deliver, events))
        if finished is not None:
            self.vitals.count_finished(_HOW[finished.reason])
        return token, finished is not None

    def _complete(self, answer: Answer) -> None:
        """A choice has its end; the job ends with its last choice."""
        if answer.identifier not in self._answers:
            return
        self._parts.scheduler.finish((answer.identifier, answer.choice))
        answer.close()
        answers = self._answers[answer.identifier]
        answers.remove(answer)
        if not answers:
            self._parts.adapters.give_back(answer.adapters)
            del self._answers[answer.identifier]

    def _answer(self, request: Hashable) -> Answer | None:
        assert isinstance(request, tuple)
        identifier, choice = request
        return next((answer for answer in self._answers.get(identifier, ()) if answer.choice == choice), None)

    def _embed_some(self) -> None:
        most = self._parts.scheduler.pace.chunk(self._parts.scheduler.running, self._parts.context.batch_tokens)
        done = self._parts.embedder.step(most)
        if done is not None:
            job, embedded = done
            self._outbox.append((job.deliver, [embedded]))
            self.vitals.count_finished(How.EMBEDDED)

    # ---- ends ---------------------------------------------------------------------------------------------------

    def _drop_expired(self, now: float) -> None:
        late = {request[0] for request in self._parts.scheduler.expired(now) if isinstance(request, tuple)}
        for identifier in late | set(self._parts.embedder.expired(now)):
            self._fail(identifier, OutOfTime("the deadline passed before the answer was complete"), How.DEADLINE)

    def _fail(self, identifier: int, error: DeltaicError, how: How) -> None:
        """End a job with an error for its caller."""
        deliver = self._end(identifier, how)
        if deliver is not None:
            self._outbox.append((deliver, [error]))

    def _end(self, identifier: int, how: How) -> Deliver | None:
        """Take a job out, wherever it is, and free what it holds; who waits for it."""
        answers = self._answers.pop(identifier, [])
        for answer in answers:
            self._parts.states.do(self._parts.scheduler.remove((identifier, answer.choice)), self._parts.scheduler)
            answer.close()
        if answers:
            self._parts.adapters.give_back(answers[0].adapters)
            self.vitals.count_finished(how)
            return answers[0].deliver
        job = self._parts.embedder.remove(identifier)
        if job is None:
            return None
        self.vitals.count_finished(how)
        return job.deliver


def _settle(done: "Future[None]", work: Callable[[], None]) -> None:
    """Do it and tell whoever waits."""
    try:
        work()
    except DeltaicError as error:
        done.set_exception(error)
    else:
        done.set_result(None)
