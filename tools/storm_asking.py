"""What a storm asks, what is right to answer, and what became of every request."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cli.chat import Label, build_request
from cli.demo.asking import Reply, ask_node
from deltaic.errors import Code, DeltaicError
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2

QUESTIONS = (
    "Who are you?",
    "When do you open?",
    "What is two plus three?",
    "Write one sentence about the sea.",
    "Name a colour.",
    "I lost my card. What should I do?",
)
TOKENS = 6
SECONDS = 40.0
_RETRIED = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED)

References = Mapping[tuple[str, str], frozenset[str]]
"""(Revision, question) -> the answers that are right."""


def request_for(model: str, question: str) -> inference_pb2.GenerateRequest:
    """Greedy, short and public."""
    message = inference_pb2.ChatMessage(role="user", content=question)
    return build_request(model, [message], Label.PUBLIC, TOKENS, temperature=0.0)


async def collect_references(node: str, revisions: Iterable[str], questions: Sequence[str]) -> References:
    """Ask `node` each question of each revision: alone, again, and all at once, since a batch may round differently.

    Raises the error of the first request that fails.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for revision in revisions:
        for rounds in ([[each] for each in questions], [[each] for each in questions], [questions]):
            for together in rounds:
                replies = await asyncio.gather(
                    *(ask_node(node, request_for(revision, question), SECONDS) for question in together)
                )
                for question, reply in zip(together, replies, strict=True):
                    if reply.error is not None:
                        raise reply.error
                    found.setdefault((revision, question), set()).add(reply.text)
    return {key: frozenset(texts) for key, texts in found.items()}


def telling(references: References, questions: Sequence[str]) -> list[str]:
    """The questions whose right answers are different for any two revisions of one model: a mix-up would show."""
    revisions: dict[str, list[str]] = {}
    for revision in dict.fromkeys(revision for revision, _ in references):
        revisions.setdefault(RevisionName.parse(revision).model, []).append(revision)
    return [
        question
        for question in questions
        if all(
            references[one, question].isdisjoint(references[other, question])
            for siblings in revisions.values()
            for place, one in enumerate(siblings)
            for other in siblings[place + 1 :]
        )
    ]


def has_advice(error: DeltaicError) -> bool:
    """Whether a caller learns that it may come again, and when or how."""
    return error.code in _RETRIED and bool(error.hint or error.metadata.get("retry_after_ms"))


@dataclass(slots=True)
class Tally:
    """What became of all requests; what must not happen is kept in words, the first few of it."""

    references: References
    answered: Counter[str] = field(default_factory=Counter)
    """Who answered -> how often."""
    refused: Counter[str] = field(default_factory=Counter)
    """CODE REASON -> how often, of failures with advice."""
    wrong: list[str] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)
    longest: float = 0.0
    """Seconds of the slowest request, answered or not."""

    def note(self, model: str, question: str, reply: Reply) -> None:
        """Judge one reply to a request for `model`, a channel's model or a revision."""
        self.longest = max(self.longest, reply.total)
        error, end = reply.error, reply.completion
        if error is not None:
            if has_advice(error):
                self.refused[f"{error.code} {error.reason}"] += 1
            else:
                self.untyped.append(f"{model}: {error.code} {error.reason}: {error}")
            return
        right = self.references.get((end.revision, question), frozenset())
        if reply.text in right and _is_of(end.revision, model):
            self.answered[end.node] += 1
        else:
            self.wrong.append(f"{model} asked {question!r}: {reply.text!r} from {end.revision} at {end.node}")

    @property
    def requests(self) -> int:
        return sum(self.answered.values()) + sum(self.refused.values()) + len(self.wrong) + len(self.untyped)


def _is_of(revision: str, model: str) -> bool:
    """A request for a revision is answered by that one, a request for a model by one of its own."""
    return revision == model or ("/" not in model and RevisionName.parse(revision).model == model)


async def ask_until(
    over: asyncio.Event, nodes: Sequence[str], models: Sequence[str], questions: Sequence[str], tally: Tally, seed: int
) -> None:
    """One client: any node, any model, any question; a short pause, longer after a failure. Ends after its request."""
    dice = random.Random(seed)  # noqa: S311  # no secret: the same seed, the same storm
    while not over.is_set():
        model, question = dice.choice(models), dice.choice(questions)
        reply = await ask_node(dice.choice(nodes), request_for(model, question), SECONDS)
        tally.note(model, question, reply)
        await asyncio.sleep(dice.uniform(0.05, 0.25) if reply.error is None else dice.uniform(0.2, 0.6))
