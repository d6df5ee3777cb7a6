"""Workers that hang, run out of memory, abort or are killed: seen, said, started again, and nobody else is touched."""

import asyncio
import os
import signal
import struct
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_asking import KEY, NEXT_REVISION, REVISION, SETTINGS, answer, ask, endless, rest_of
from stopped_thread import stopped, thread_named

from deltaic.engine.ending import Cause
from deltaic.engine.errors import NotEnoughMemory, WorkerFailed, WorkerHung, WorkerKilledForMemory
from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2

pytestmark = pytest.mark.model

OTHER = "models/smollm2/channels/canary"
QUICK = SETTINGS.model_copy(update={"hang_timeout": 5.0})


@pytest.fixture
async def pair(tmp_path: Path, demo_model_path: Path) -> AsyncIterator[ModelHost]:
    """A host with two workers, whose hangs are seen after five seconds."""
    host = ModelHost(tmp_path / "run", QUICK, "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    await host.serve(OTHER, NEXT_REVISION, demo_model_path)
    yield host
    await host.close()


async def pid_of(host: ModelHost, key: str = KEY) -> int:
    async with host.lease(key) as leased:
        await leased.worker.ready(60)
        return leased.worker.pid


async def test_a_worker_that_is_stopped_is_killed_and_started_again_while_the_other_answers(pair: ModelHost) -> None:
    before, neighbour = await pid_of(pair), await pid_of(pair, OTHER)
    async with pair.lease(KEY) as leased:
        stream = generate(leased, endless(), 90)
        await anext(stream)
        os.kill(before, signal.SIGSTOP)
        failing = asyncio.create_task(rest_of(stream))
        text, _ = await answer(pair, ask("Say hello.", max_tokens=4), key=OTHER)
        assert text
        with pytest.raises(WorkerHung, match="hung while it answered") as caught:
            await failing
    assert int(caught.value.metadata["retry_after_ms"]) > 0
    assert "5 seconds" in caught.value.metadata["last_end"]
    text, _ = await answer(pair, endless(2))
    assert text
    assert await pid_of(pair) not in (0, before)
    assert await pid_of(pair, OTHER) == neighbour


async def test_a_hang_of_the_decode_thread_is_seen_although_the_process_answers(pair: ModelHost) -> None:
    """Only the thread that decodes stands still, as in a native call that never returns."""
    before = await pid_of(pair)
    async with pair.lease(KEY) as leased:
        stream = generate(leased, endless(), 90)
        await anext(stream)
        with stopped(thread_named(before, "executor")):
            served = await leased.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=2)
            assert served.models[0].revision == str(REVISION)
            with pytest.raises(WorkerHung):
                await rest_of(stream)
        assert leased.worker.last_end.cause is Cause.HUNG
        assert leased.worker.ends == Counter({Cause.HUNG: 1})
    text, _ = await answer(pair, endless(2))
    assert text


async def test_a_worker_without_work_that_hangs_is_replaced_before_anybody_asks(pair: ModelHost) -> None:
    before = await pid_of(pair)
    os.kill(before, signal.SIGSTOP)
    async with pair.lease(KEY) as leased, asyncio.timeout(60):
        while not leased.worker.ends:
            await asyncio.sleep(0.05)
        assert leased.worker.last_end.cause is Cause.HUNG
    text, _ = await answer(pair, endless(2))
    assert text


async def test_a_long_prompt_and_long_answers_are_no_hang(tmp_path: Path, demo_model_path: Path) -> None:
    """Work for longer than the limit: every step is a sign of life."""
    settings = SETTINGS.model_copy(update={"hang_timeout": 5.0, "context_tokens": 1024, "prefill_chunk": 32})
    host = ModelHost(tmp_path / "run", settings, "edge@test", "edge")
    try:
        await host.serve(KEY, REVISION, demo_model_path)
        before = await pid_of(host)
        request = endless(100)
        request.prompt = "1 2 3 4 5 6 7 8 9 " * 40
        started = time.monotonic()
        while time.monotonic() - started < 7:
            await asyncio.gather(*(answer(host, request) for _ in range(4)))
        assert await pid_of(host) == before
    finally:
        await host.close()


async def test_a_worker_tells_what_it_does(pair: ModelHost) -> None:
    await asyncio.gather(*(answer(pair, endless(8)) for _ in range(3)))
    async with pair.lease(KEY) as leased, asyncio.timeout(30):
        pulse = leased.worker.pulse
        while pulse.last is None or pulse.last.counters.finished["length"] < 3:
            await asyncio.sleep(0.05)
        told = pulse.last
    assert told.counters.generated_tokens == 24
    assert told.counters.prompt_tokens % 3 == 0
    assert told.counters.prompt_tokens > 0
    assert sum(told.times.first_token.counts) == sum(told.times.queue.counts) == 3
    assert sum(told.times.inter_token.counts) == 21
    assert told.steps == sum(told.times.step.counts) >= 8
    assert (told.slots, told.kv_capacity, told.backend.layers) == (4, 2048, 31)
    assert told.running == told.waiting == 0
    assert 0 < told.kv_tokens < told.kv_capacity  # slots keep what they read


async def test_a_model_that_does_not_fit_is_refused_with_numbers_and_the_others_stay(
    tmp_path: Path, demo_model_path: Path
) -> None:
    size = demo_model_path.stat().st_size
    settings = SETTINGS.model_copy(update={"memory_bytes": 4 * size})
    host = ModelHost(tmp_path / "run", settings, "edge@test", "edge")
    try:
        await host.serve(KEY, REVISION, demo_model_path)
        before = await pid_of(host)
        with pytest.raises(NotEnoughMemory, match=r"needs about [\d,]+ bytes .* [\d,]+ are available") as caught:
            await host.serve(OTHER, NEXT_REVISION, demo_model_path)
        assert int(caught.value.metadata["needed_bytes"]) > size
        assert int(caught.value.metadata["available_bytes"]) < 2 * size
        text, _ = await answer(host, endless(2))
        assert text
        assert await pid_of(host) == before
        await host.release(KEY)
        await host.serve(OTHER, NEXT_REVISION, demo_model_path)
    finally:
        await host.close()


async def test_a_worker_goes_before_its_node_when_memory_runs_out(pair: ModelHost) -> None:
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{await pid_of(pair)}/oom_score_adj").read_text()) >= max(500, mine)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory group of the kernel's for one test."""
    top = Path("/sys/fs/cgroup/memory")
    top = top if top.is_dir() else Path("/sys/fs/cgroup")
    group = top / f"deltaic-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this user may make no control group")
    if not (group / limit_of(group)).exists():
        group.rmdir()
        pytest.skip("the memory controller is not handed down here")
    yield group
    group.rmdir()


def limit_of(group: Path) -> str:
    return "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"


def started_in(group: Path, folder: Path) -> str:
    """A stand-in for the interpreter that moves itself into the group first."""
    program = folder / "python-in-group"
    program.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


async def test_a_kill_for_lack_of_memory_takes_the_worker_alone_and_is_called_so(
    small_group: Path, tmp_path: Path, demo_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process of the group eats the memory; the kernel ends the worker, and neither it nor the other worker."""
    interpreter = sys.executable
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    await host.serve(OTHER, NEXT_REVISION, demo_model_path)
    neighbour = await pid_of(host, OTHER)
    monkeypatch.setattr(sys, "executable", started_in(small_group, tmp_path))
    (small_group / limit_of(small_group)).write_text(str(512 << 20))
    await host.serve(KEY, REVISION, demo_model_path)
    eater = await asyncio.create_subprocess_exec(
        interpreter, "-c", "import sys; sys.stdin.read(1); held = b'x' * (480 << 20); sys.stdin.read()", stdin=PIPE
    )
    assert eater.stdin is not None
    try:
        (small_group / "cgroup.procs").write_text(str(eater.pid))
        async with host.lease(KEY) as leased:
            stream = generate(leased, endless(), 90)
            await anext(stream)
            eater.stdin.write(b"x" + bytes(1))
            with pytest.raises(WorkerKilledForMemory, match="memory ran out"):
                await rest_of(stream)
            assert leased.worker.last_end.cause is Cause.OUT_OF_MEMORY
        text, _ = await answer(host, endless(2), key=OTHER)
        assert text
        assert await pid_of(host, OTHER) == neighbour
    finally:
        await host.close()
        if eater.returncode is None:
            eater.kill()
        await eater.wait()


async def test_a_file_over_which_llama_cpp_aborts_is_a_failed_start_and_harms_nobody(
    pair: ModelHost, tmp_path: Path, demo_model_path: Path
) -> None:
    """A thousand layers declared: sound to a parser, an assertion of llama.cpp, which ends the process."""
    path = tmp_path / "aborts.gguf"
    path.write_bytes(with_number(demo_model_path.read_bytes(), b"llama.block_count", 1000))
    before = await pid_of(pair), await pid_of(pair, OTHER)
    with pytest.raises(WorkerFailed, match=r"SIGABRT \(.*GGML_ASSERT"):
        await pair.serve("models/broken/channels/stable", RevisionName("broken", "sha256:" + "3" * 64), path)
    text, _ = await answer(pair, endless(2))
    assert text
    assert (await pid_of(pair), await pid_of(pair, OTHER)) == before
    assert [served.key for served in pair.serving()] == [OTHER, KEY]


def with_number(file: bytes, key: bytes, value: int) -> bytes:
    """A GGUF file with another value of a 32-bit key."""
    at = file.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    assert struct.unpack_from("<I", file, at) == (4,), "not a 32-bit number"
    return file[: at + 4] + struct.pack("<I", value) + file[at + 8 :]
