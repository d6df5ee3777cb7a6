"""Who is killed when: each in turn first, then at random, one at a time. Only processes of this storm, by their pid."""

import asyncio
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator

import structlog

from cli.demo.branch import Branch
from cli.demo.processes import Node

_log = structlog.get_logger(__name__)
INDEX = "index"
CENTER = "center"


def order(edges: list[str], dice: random.Random) -> Iterator[str]:
    """Names of victims: an edge, the index, the center, the other edges; then at random without end."""
    yield from (edges[0], INDEX, CENTER, *edges[1:])
    # An edge is what a branch depends on, so it is killed as often as both others together.
    everyone = [*edges, *edges, *([INDEX, CENTER] * max(1, len(edges) // 2))]
    yield from (dice.choice(everyone) for _ in itertools.count())


async def kill_until(over: asyncio.Event, branch: Branch, seed: int, pause: tuple[float, float]) -> Counter[str]:
    """Kill one, leave it dead for a while, start it again, wait `pause` seconds; how often each was killed.

    When it ends everything runs. Raises Unavailable when a node does not start again.
    """
    dice = random.Random(seed)  # noqa: S311  # no secret: the same seed, the same storm
    killed: Counter[str] = Counter()
    for victim in order(list(branch.edges), dice):
        await _wait(over, dice.uniform(*pause))
        if over.is_set():
            break
        _log.info("storm.kills", victim=victim)
        killed[victim] += 1
        if victim == INDEX:
            _kill_index(branch)  # it is started again by whoever runs it
            continue
        node: Node = branch.center if victim == CENTER else branch.edges[victim]
        await node.kill()
        await asyncio.sleep(dice.uniform(0.0, 3.0))
        await node.start()
    return killed


def _kill_index(branch: Branch) -> None:
    if branch.index.pid is not None:
        os.kill(branch.index.pid, signal.SIGKILL)


async def _wait(over: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        return
