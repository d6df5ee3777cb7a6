"""Workers that start, are replaced, crash and end: nothing is left behind, and callers are told clearly."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from engine_asking import (
    KEY,
    NEXT_REVISION,
    REVISION,
    SETTINGS,
    answer,
    ask,
    endless,
    rest_of,
)

from deltaic.engine.errors import NotServed, WorkerDied, WorkerFailed, WorkerRestarting, WorkerStopping
from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate

pytestmark = pytest.mark.model


@pytest.fixture
async def host(tmp_path: Path, demo_model_path: Path) -> AsyncIterator[ModelHost]:
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    yield host
    await host.close()


async def pid_of(host: ModelHost) -> int:
    async with host.lease(KEY) as leased:
        await leased.worker.ready(30)
        return leased.worker.pid


async def test_a_killed_worker_fails_its_answer_clearly_and_comes_back(host: ModelHost) -> None:
    async with host.lease(KEY) as leased:
        before = leased.worker.pid
        stream = generate(leased, endless(), 60)
        await anext(stream)
        os.kill(before, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="died while it answered"):
            await rest_of(stream)
    text, _ = await answer(host, ask("Say hello."))
    assert text
    assert await pid_of(host) not in (0, before)


async def test_a_slow_reader_is_told_that_its_worker_was_stopped(host: ModelHost) -> None:
    """Not that its own task was cancelled: a server that serves it would then send no status."""
    async with host.lease(KEY) as leased:
        stream = generate(leased, endless(), 60)
        await anext(stream)
        await leased.worker.stop(0.05)
        with pytest.raises(WorkerStopping, match="stopped before the answer was complete"):
            await rest_of(stream)


async def test_a_caller_waits_for_a_restart_no_longer_than_its_deadline(host: ModelHost) -> None:
    os.kill(await pid_of(host), signal.SIGKILL)
    async with host.lease(KEY) as leased:
        await leased.worker.notice_death()
        with pytest.raises(WorkerRestarting):
            await rest_of(generate(leased, endless(2), 0.01))
    text, _ = await answer(host, endless(2))
    assert text


async def test_a_new_revision_takes_over_under_load_without_a_failed_request(
    host: ModelHost, demo_model_path: Path
) -> None:
    """Three clients ask without a pause; every answer is whole and names the revision that gave it."""
    stop, completions = asyncio.Event(), []

    async def client() -> None:
        while not stop.is_set():
            text, completion = await answer(host, endless(12))
            assert text
            completions.append(completion)

    before = await pid_of(host)
    clients = [asyncio.create_task(client()) for _ in range(3)]
    await asyncio.sleep(0.5)
    seconds = await host.serve(KEY, NEXT_REVISION, demo_model_path)
    _, after = await answer(host, endless(2))
    stop.set()
    await asyncio.gather(*clients)
    assert seconds > 0
    assert after.revision == str(NEXT_REVISION)
    assert {each.revision for each in completions} >= {str(REVISION)}
    assert all(each.usage.completion_tokens == 12 for each in completions)
    await gone(before)


async def test_the_old_worker_finishes_what_it_has_begun(host: ModelHost, demo_model_path: Path) -> None:
    async with host.lease(KEY) as leased:
        stream = generate(leased, endless(40), 90)
        await anext(stream)
        await host.serve(KEY, NEXT_REVISION, demo_model_path)
        last = [response async for response in stream][-1]
    assert last.completion.revision == str(REVISION)
    assert [served.revision for served in host.serving()] == [NEXT_REVISION]


async def test_serving_what_is_served_changes_nothing_and_two_keys_share_a_worker(
    host: ModelHost, demo_model_path: Path
) -> None:
    before = await pid_of(host)
    assert await host.serve(KEY, REVISION, demo_model_path) == 0.0
    await host.serve("models/smollm2/channels/canary", REVISION, demo_model_path)
    assert await pid_of(host) == before
    await host.release(KEY)
    assert [served.key for served in host.serving()] == ["models/smollm2/channels/canary"]
    assert psutil.pid_exists(before)
    await host.release("models/smollm2/channels/canary")
    assert not psutil.pid_exists(before)
    with pytest.raises(NotServed):
        await pid_of(host)


async def test_two_revisions_that_come_at_once_are_each_answered_by_their_own_worker(
    tmp_path: Path, demo_model_path: Path
) -> None:
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    other = demo_model_path.with_name("smollm2-code.Q4_1.gguf")
    try:
        for _ in range(3):
            await asyncio.gather(host.serve("one", REVISION, demo_model_path), host.serve("two", NEXT_REVISION, other))
            for key, revision in (("one", REVISION), ("two", NEXT_REVISION)):
                _, completion = await answer(host, ask("Say hello.", max_tokens=2), key=key)
                assert completion.revision == str(revision)
            await asyncio.gather(host.release("one"), host.release("two"))
    finally:
        await host.close()


async def test_two_keys_that_come_at_once_start_one_worker(tmp_path: Path, demo_model_path: Path) -> None:
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    await asyncio.gather(*(host.serve(key, REVISION, demo_model_path) for key in ("a", "b")))
    children = psutil.Process().children()
    assert len([child for child in children if "deltaic.engine.worker" in " ".join(child.cmdline())]) == 1
    await host.close()


async def test_a_file_that_is_no_model_fails_in_one_line_and_the_old_one_goes_on(
    host: ModelHost, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + os.urandom(4096))
    with pytest.raises(WorkerFailed) as caught:
        await host.serve(KEY, NEXT_REVISION, garbage)
    assert "garbage.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    _, completion = await answer(host, endless(2))
    assert completion.revision == str(REVISION)


async def test_a_worker_that_aborts_while_loading_is_a_failed_start(
    tmp_path: Path, demo_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that does what llama.cpp does to a malformed file: an assertion on stderr, then SIGABRT."""
    program = tmp_path / "aborts"
    program.write_text("#!/bin/sh\necho 'ggml.c:1: GGML_ASSERT(n > 0) failed' >&2\necho trailing >&2\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    with pytest.raises(WorkerFailed, match=r"SIGABRT \(ggml.c:1: GGML_ASSERT\(n > 0\) failed\)"):
        await host.serve(KEY, REVISION, demo_model_path)
    await host.close()


async def test_a_worker_that_never_gets_ready_is_given_up_and_killed(
    tmp_path: Path, demo_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    host = ModelHost(tmp_path / "run", SETTINGS.model_copy(update={"start_timeout": 0.5}), "edge@test", "edge")
    with pytest.raises(WorkerFailed, match=r"not ready within 0\.5 seconds"):
        await host.serve(KEY, REVISION, demo_model_path)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    await host.close()


async def test_closing_cuts_off_what_outlasts_the_drain_and_says_so(tmp_path: Path, demo_model_path: Path) -> None:
    host = ModelHost(tmp_path / "run", SETTINGS.model_copy(update={"drain_timeout": 0.2}), "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    async with host.lease(KEY) as leased:
        stream = generate(leased, endless(), 60)
        await anext(stream)
        closing = asyncio.create_task(host.close())
        with pytest.raises(WorkerStopping):
            await rest_of(stream)
    await closing
    with pytest.raises(WorkerStopping):
        await host.serve(KEY, REVISION, demo_model_path)
    assert host.serving() == []


async def test_a_folder_whose_name_is_too_long_for_a_socket_still_works(tmp_path: Path, demo_model_path: Path) -> None:
    host = ModelHost(tmp_path / ("long" * 30), SETTINGS, "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    text, _ = await answer(host, endless(2))
    assert text
    await host.close()


async def test_a_worker_dies_with_its_parent(tmp_path: Path, demo_model_path: Path) -> None:
    program = Path(__file__).with_name("engine_parent.py")
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(tmp_path), str(demo_model_path), stderr=subprocess.PIPE
    )
    assert parent.stderr is not None
    pids = [int(line.removeprefix(b"pid=")) async for line in first_with(parent.stderr, b"pid=")]
    parent.kill()
    await parent.wait()
    await gone(pids[0])


async def first_with(stream: asyncio.StreamReader, prefix: bytes) -> AsyncIterator[bytes]:
    """The first line that begins so; the stream ends without one when the program failed."""
    async for line in stream:
        if line.startswith(prefix):
            yield line
            return


async def gone(pid: int, seconds: float = 20.0) -> None:
    """Wait for the end of a process. Raises TimeoutError."""
    ends = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > ends:
            raise TimeoutError(f"process {pid} lives on")
        await asyncio.sleep(0.05)
