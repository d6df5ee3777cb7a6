"""Load on one side of the engine bench: clients in a closed loop, or arrivals of their own in an open one.

Only a window counts. It opens when every client has had a first answer, of random length, so that they no longer keep
step. When it closes, no question is sent any more, those that wait get their first token, and the rest is cut off:
otherwise the slowest first tokens would be the ones that nobody saw.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from engine_transports import Answer, Transport
from engine_work import Question
from harness import BenchFailed

_POLL = 0.01
_LEAST_TOKENS = 8
_AFTER_REFUSAL = 0.5


@dataclass(slots=True)
class Seen:
    """What one run of load saw."""

    opened: float = 0.0
    closed: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    cpu_s: float = 0.0
    """Processor time of this process during the window."""

    @property
    def seconds(self) -> float:
        return self.closed - self.opened

    def within(self, moment: float) -> bool:
        return self.opened <= moment < self.closed

    @property
    def asked(self) -> list[Answer]:
        """Answers to questions that were sent in the window."""
        return [answer for answer in self.answers if self.within(answer.sent)]

    @property
    def errors(self) -> list[str]:
        return [answer.error for answer in self.answers if answer.error]

    def tokens(self, *, tenant: str | None = None) -> float:
        """Tokens that arrived in the window: pieces, and where a piece is not a token, as whole answers had of them."""
        answers = [each for each in self.answers if tenant is None or each.question.tenant == tenant]
        whole = [answer for answer in answers if answer.whole and answer.pieces]
        pieces = sum(len(answer.pieces) for answer in whole)
        a_piece = sum(answer.tokens for answer in whole) / pieces if pieces else 1.0
        return a_piece * sum(self.within(moment) for answer in answers for moment in answer.pieces)

    def first_tokens(self) -> list[float]:
        """Seconds to the first token, of what was asked in the window."""
        return [answer.first_token for answer in self.asked if answer.first_token is not None]

    def gaps(self) -> list[float]:
        """Seconds between two pieces of an answer, of those that arrived in the window."""
        return [
            later - sooner
            for answer in self.answers
            for sooner, later in zip(answer.pieces, answer.pieces[1:], strict=False)
            if self.within(later)
        ]


async def closed_loop(
    transport: Transport,
    clients: Sequence[Iterator[Question]],
    seconds: float,
    *,
    longest_warm_up: float = 30.0,
    see_all_first_tokens: bool = True,
) -> Seen:
    """Every client asks its next question as soon as it has an answer, for `seconds` after all of them are warm."""
    seen = Seen()
    warm = 0
    over = asyncio.Event()
    phase = random.Random(len(clients))

    async def client(questions: Iterator[Question]) -> None:
        nonlocal warm
        first = next(questions)
        shortened = max(_LEAST_TOKENS, round(first.max_tokens * phase.random()))
        answer = await _ask(transport, replace(first, max_tokens=shortened), seen)
        if answer.error:
            raise BenchFailed(f"the first question was refused: {answer.error}")
        warm += 1
        while not over.is_set():
            answer = await _ask(transport, next(questions), seen)
            if answer.error:  # a server that refuses at once is not to be asked a thousand times a second
                await asyncio.sleep(_AFTER_REFUSAL)

    tasks = [asyncio.create_task(client(questions)) for questions in clients]
    try:
        latest = time.monotonic() + longest_warm_up
        await _until(lambda: warm == len(clients) or time.monotonic() > latest, tasks)
        await _window(seen, seconds, least=len(clients), tasks=tasks)
        over.set()
        if see_all_first_tokens:
            await _first_tokens_of_all(seen)
    finally:
        await _end(tasks)
    return seen


async def open_loop(
    transport: Transport, questions: Iterator[Question], arrivals: Sequence[float], seconds: float
) -> Seen:
    """A question at every moment of `arrivals`, whether or not earlier ones are answered."""
    seen = Seen()
    tasks: list[asyncio.Task[Answer]] = []

    async def arrive() -> None:
        started = time.monotonic()
        for moment in arrivals:
            await asyncio.sleep(max(0.0, started + moment - time.monotonic()))
            tasks.append(asyncio.create_task(_ask(transport, next(questions), seen)))

    arriving = asyncio.create_task(arrive())
    try:
        await _window(seen, seconds)
        await arriving
        await _first_tokens_of_all(seen)
    finally:
        await _end([arriving, *tasks])
    return seen


async def ask(transport: Transport, question: Question) -> Answer:
    """One question, alone."""
    answer = Answer(question)
    await transport.ask(question, answer)
    return answer


async def _ask(transport: Transport, question: Question, seen: Seen) -> Answer:
    answer = Answer(question)
    seen.answers.append(answer)
    await transport.ask(question, answer)
    return answer


async def _window(seen: Seen, seconds: float, *, least: int = 0, tasks: Sequence["asyncio.Task[None]"] = ()) -> None:
    """Open for `seconds`; up to twice as long where fewer than `least` questions were sent, or no first token came."""
    seen.opened, before = time.monotonic(), time.process_time()
    seen.closed = seen.opened + 2 * seconds

    def enough() -> bool:
        return time.monotonic() > seen.closed or (len(seen.asked) >= least and bool(seen.first_tokens()))

    await asyncio.sleep(seconds)
    await _until(enough if least else lambda: True, tasks)
    seen.closed = time.monotonic()
    seen.cpu_s = time.process_time() - before


async def _first_tokens_of_all(seen: Seen) -> None:
    def waiting() -> bool:
        return any(not answer.pieces and not answer.error and not answer.whole for answer in seen.answers)

    await _until(lambda: not waiting(), [])


async def _until(holds: Callable[[], bool], tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Also ends when a task fails, with its exception."""
    while not holds():
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(_POLL)


async def _end(tasks: Sequence["asyncio.Task[None] | asyncio.Task[Answer]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
