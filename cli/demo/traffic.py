"""Requests that keep flowing while models change under them."""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from cli.chat import Label, build_request
from cli.demo.asking import ask_node
from cli.demo.models import CENTER_MODEL, HOT_MODEL, NEIGHBOUR_MODEL
from cli.fleet import role_word
from deltaic.v1 import inference_pb2

_TOKENS = 24
_DEADLINE_SECONDS = 30.0
_PAUSE_SECONDS = 0.1
_LONG_PAUSE_SECONDS = 1.5

_QUESTIONS = (
    "When do you open?",
    "I lost my card. What should I do?",
    "How long does a transfer take?",
    "Where do I collect my test results?",
    "Write one sentence about the sea.",
    "What is two plus three?",
)


class Kind(StrEnum):
    """The five kinds of request in the mix."""

    HOT = "hot model, through the edge"
    NEIGHBOUR = "model that only the second edge holds, through the first"
    CENTER_ONLY = "model that only the center holds"
    LABELLED = "labelled sensitive, on the device"
    DETECTED = "labelled public, but a card number is in it"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it. Times in seconds; `error` is empty when it was answered whole."""

    kind: Kind
    answered_by: str
    node: str
    revision: str
    tokens: int
    prompt_tokens: int
    first_token: float
    total: float
    text: str
    error: str = ""


@dataclass(slots=True)
class Traffic:
    """Clients of an edge and of a device. `marks` are the secrets in the sensitive prompts."""

    edge: str
    device: str
    answers: list[Answer] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    flowing_seconds: float = 0.0
    center_reachable: bool = True
    neighbour_there: bool = True

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Two clients on the hot model, one each on the neighbour's, the center's and the device, until it ends.

        No request is cut: each client finishes the one it is in.
        """
        started, stop = time.monotonic(), asyncio.Event()
        clients = (self._hot, self._hot, self._neighbour, self._center_only, self._sensitive)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(self._client(client, stop))
            try:
                yield
            finally:
                stop.set()
        self.flowing_seconds += time.monotonic() - started

    async def _client(self, client: Callable[[str], AsyncIterator[Answer]], stop: asyncio.Event) -> None:
        for question in itertools.cycle(_QUESTIONS):
            if stop.is_set():
                return
            async for answer in client(question):
                self.answers.append(answer)
                await asyncio.sleep(_PAUSE_SECONDS if answer.kind is Kind.HOT else _LONG_PAUSE_SECONDS)
            if not (self.center_reachable and self.neighbour_there):
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _hot(self, question: str) -> AsyncIterator[Answer]:
        yield await ask(self.edge, Kind.HOT, HOT_MODEL, question, Label.PUBLIC)

    async def _neighbour(self, question: str) -> AsyncIterator[Answer]:
        if self.neighbour_there:
            yield await ask(self.edge, Kind.NEIGHBOUR, NEIGHBOUR_MODEL, question, Label.PUBLIC)

    async def _center_only(self, question: str) -> AsyncIterator[Answer]:
        if self.center_reachable:
            yield await ask(self.edge, Kind.CENTER_ONLY, CENTER_MODEL, question, Label.PUBLIC)

    async def _sensitive(self, question: str) -> AsyncIterator[Answer]:
        mark = self._mark()
        labelled = f"Patient {mark}: {question}"
        yield await ask(self.device, Kind.LABELLED, HOT_MODEL, labelled, Label.SENSITIVE)
        detected = f"My card is 4111 1111 1111 1111, reference {mark}. {question}"
        yield await ask(self.device, Kind.DETECTED, HOT_MODEL, detected, Label.PUBLIC)

    def _mark(self) -> str:
        self.marks.append(f"mark-{secrets.token_hex(8)}")
        return self.marks[-1]

    def of_kind(self, *kinds: Kind) -> Iterator[Answer]:
        return (answer for answer in self.answers if answer.kind in kinds)

    def in_numbers(self) -> str:
        """Requests so far, by who answered, as one line."""
        by = Counter(answer.answered_by for answer in self.answers if not answer.error)
        return (
            f"{len(self.answers)} requests: edge {by['edge']}, device {by['device']}, center {by['center']}, "
            f"failed {len(self.failed)}"
        )

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]


async def ask(node: str, kind: Kind, model: str, question: str, label: Label, *, tokens: int = _TOKENS) -> Answer:
    """One streamed request, timed by its client."""
    message = inference_pb2.ChatMessage(role="user", content=question)
    request = build_request(model, [message], label, tokens, temperature=0.0)
    reply = await ask_node(node, request, _DEADLINE_SECONDS)
    end, failed = reply.completion, reply.error
    return Answer(
        kind=kind,
        answered_by=role_word(end.answered_by) if failed is None else "",
        node=end.node,
        revision=end.revision,
        tokens=end.usage.completion_tokens,
        prompt_tokens=end.usage.prompt_tokens,
        first_token=reply.first_token,
        total=reply.total,
        text=reply.text,
        error=f"{failed.code}: {failed}" if failed else "",
    )
