"""Load on a branch: clients that ask any edge for any model, until they are told to stop."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from branch_turns import Outcomes

from cli.chat import Label, build_request
from cli.demo.asking import ask_node
from cli.demo.processes import Node
from deltaic.v1 import inference_pb2

SECONDS = 60.0
"""Deadline of a request."""
TOKENS = 12
_AFTER_FAILURE = 0.5
QUESTIONS = (
    "When do you open?",
    "I lost my card. What should I do?",
    "How long does a transfer take?",
    "Write one sentence about the sea.",
    "What is two plus three?",
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A model's name, or a revision's, with or without an adapter."""

    model: str
    adapter: str = ""

    def request(self, question: str, tokens: int = TOKENS) -> inference_pb2.GenerateRequest:
        """Greedy and public."""
        message = inference_pb2.ChatMessage(role="user", content=question)
        request = build_request(self.model, [message], Label.PUBLIC, tokens, temperature=0.0)
        if self.adapter:
            request.adapters.add(name=self.adapter)
        return request


async def ask(edge: Node, what: Ask, question: str, outcomes: Outcomes, *, tokens: int = TOKENS) -> bool:
    """One request, noted in `outcomes`; whether it was answered."""
    reply = await ask_node(edge.address, what.request(question, tokens), SECONDS)
    if reply.error is not None:
        outcomes.failures[f"{what.model}: {reply.error.code} {reply.error.reason}"] += 1
        return False
    end = reply.completion
    outcomes.by_node[end.node] += 1
    outcomes.seconds.append(reply.total)
    if end.answered_by == inference_pb2.NODE_ROLE_EDGE:
        outcomes.in_branch += 1
        outcomes.elsewhere += end.node != edge.called
    return True


async def load(
    edges: Sequence[Node],
    draw: Callable[[random.Random], Ask],
    seconds: float,
    *,
    clients: int,
    pause: float = 0.0,
    tokens: int = TOKENS,
    seed: int = 1,
) -> Outcomes:
    """`clients` in a closed loop, `pause` seconds between an answer and the next question; every request ends."""
    outcomes = Outcomes()
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        while time.monotonic() < until:
            answered = await ask(dice.choice(edges), draw(dice), dice.choice(QUESTIONS), outcomes, tokens=tokens)
            await asyncio.sleep(pause if answered else _AFTER_FAILURE)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return outcomes
