"""A worker that is started again: whatever goes wrong with one start, there is a next one."""

import asyncio
from pathlib import Path

import pytest

from deltaic.engine.ending import Cause, Ending
from deltaic.engine.settings import EngineSettings
from deltaic.engine.supervisor import Worker
from deltaic.engine.worker_process import WorkerProcess, WorkerSpec
from deltaic.names import RevisionName

SPEC = WorkerSpec(RevisionName("tiny", "sha256:" + "1" * 64), Path("tiny.gguf"), "edge@test", "edge", EngineSettings())


async def test_a_start_that_fails_as_nobody_foresaw_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, ends = 0, asyncio.Event()

    async def start(_: WorkerProcess) -> None:
        nonlocal starts
        starts += 1
        if starts == 2:
            raise RuntimeError("can't start new thread")

    async def wait(_: WorkerProcess) -> Ending:
        if starts > 1:
            ends.set()
            await asyncio.Event().wait()
        return Ending(Cause.DIED, "it was ended by SIGKILL")

    monkeypatch.setattr(WorkerProcess, "start", start)
    monkeypatch.setattr(WorkerProcess, "wait", wait)
    worker = Worker(SPEC, tmp_path, "w1")
    await worker.start()
    async with asyncio.timeout(10):
        await ends.wait()
    await worker.stop()
    assert starts == 3
