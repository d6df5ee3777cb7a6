"""Workers killed at random under load, and loaded and unloaded without end: nothing is lost beside, nothing is left."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from engine_asking import KEY, NEXT_REVISION, REVISION, SETTINGS, answer, endless

from deltaic.engine.errors import WorkerDied
from deltaic.engine.host import ModelHost

pytestmark = pytest.mark.model

OTHER = "models/smollm2/channels/canary"
CYCLES = 25
UNNOTICED = 0.3
"""Seconds in which a request may still be sent to a worker that was just killed."""


@pytest.fixture
async def pair(tmp_path: Path, demo_model_path: Path) -> AsyncIterator[ModelHost]:
    """A host with two workers."""
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    await host.serve(OTHER, NEXT_REVISION, demo_model_path)
    yield host
    await host.close()


async def test_a_storm_of_kills_fails_only_what_the_killed_worker_was_answering(pair: ModelHost) -> None:
    """Six clients of two workers for ten seconds, a kill at random every second or so.

    Every request ends: whole, or with an error that says when to come again. A worker that was not killed loses none.
    """
    dice = random.Random(4)
    ends = time.monotonic() + 10
    killed: Counter[str] = Counter()
    latest = {KEY: 0.0, OTHER: 0.0}
    outcomes: dict[str, Counter[str]] = {KEY: Counter(), OTHER: Counter()}
    hints: list[int] = []
    survivor_was_safe = True

    async def client(key: str) -> None:
        nonlocal survivor_was_safe
        while time.monotonic() < ends:
            asked = time.monotonic()
            try:
                text, completion = await answer(pair, endless(12), key=key)
            except WorkerDied as error:
                survivor_was_safe &= latest[key] > asked - UNNOTICED
                hints.append(int(error.metadata["retry_after_ms"]))
                outcomes[key]["failed"] += 1
            else:
                assert text
                assert completion.usage.completion_tokens == 12
                outcomes[key]["whole"] += 1

    async def killer() -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(dice.uniform(0.7, 1.5))
            key = dice.choice((KEY, KEY, OTHER))
            async with pair.lease(key) as leased:
                if leased.worker.pid:
                    killed[key] += 1
                    latest[key] = time.monotonic()
                    os.kill(leased.worker.pid, signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        for key in (KEY, KEY, KEY, OTHER, OTHER, OTHER):
            group.create_task(client(key))
        group.create_task(killer())
    assert survivor_was_safe
    assert hints
    assert min(hints) > 0
    assert killed[KEY] >= 2
    for key, counts in outcomes.items():
        assert counts["whole"] > 0, key
        assert counts["failed"] <= 3 * killed[key], (key, counts)
        text, _ = await answer(pair, endless(2), key=key)
        assert text


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    rss: int
    files: int
    children: int
    sockets: int


def held(run: Path) -> Held:
    me = psutil.Process()
    return Held(me.memory_info().rss, me.num_fds(), len(me.children()), len(list(run.iterdir())))


@pytest.mark.timeout(300)
async def test_loading_and_unloading_again_and_again_leaves_nothing_behind(
    tmp_path: Path, demo_model_path: Path
) -> None:
    run = tmp_path / "run"
    host = ModelHost(run, SETTINGS, "edge@test", "edge")

    async def cycle(times: int) -> Held:
        for _ in range(times):
            await host.serve(KEY, REVISION, demo_model_path)
            await answer(host, endless(1))
            await host.release(KEY)
        return held(run)

    before = await cycle(5)
    after = await cycle(CYCLES)
    await host.close()
    assert (after.files, after.children, after.sockets) == (before.files, 0, 0)
    assert after.rss - before.rss < 8 << 20
