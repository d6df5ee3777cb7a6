"""Workers that hang, run out of memory, abort or are killed: seen, said, started again, and nobody else is touched."""

import asyncio
import os
import random
import signal
import struct
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from engine_asking import KEY, NEXT_REVISION, REVISION, SETTINGS, answer, ask, endless, rest_of
from stopped_thread import stopped, thread_named

from deltaic.engine.ending import Cause
from deltaic.engine.errors import NotEnoughMemory, WorkerDied, WorkerFailed, WorkerHung, WorkerKilledForMemory
from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2

pytestmark = pytest.mark.model

OTHER = "models/smollm2/channels/canary"
CYCLES = 25
QUICK = SETTINGS.model_copy(update={"hang_timeout": 3.0})


@pytest.fixture
async def pair(tmp_path: Path, demo_model_path: Path) -> AsyncIterator[ModelHost]:
    """A host with two workers, whose hangs are seen after three seconds."""
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
    assert "3 seconds" in caught.value.metadata["last_end"]
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
    """A limit of one second, and work for several: every step is a sign of life."""
    settings = SETTINGS.model_copy(update={"hang_timeout": 1.0, "context_tokens": 1024, "prefill_chunk": 32})
    host = ModelHost(tmp_path / "run", settings, "edge@test", "edge")
    try:
        await host.serve(KEY, REVISION, demo_model_path)
        before = await pid_of(host)
        request = endless(100)
        request.prompt = "1 2 3 4 5 6 7 8 9 " * 40
        started = time.monotonic()
        while time.monotonic() - started < 3:
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
    assert (told.slots, told.kv_capacity, told.backend.layers) == (4, 2048, 30)
    assert told.running == told.waiting == told.kv_tokens == 0


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


async def test_a_storm_of_kills_fails_only_what_the_killed_worker_was_answering(pair: ModelHost) -> None:
    """Six clients of two workers for ten seconds, a kill at random every second or so.

    Every request ends: whole, or with an error that says when to come again. A worker that was not killed loses none.
    """
    random_ = random.Random(4)
    ends = time.monotonic() + 10
    killed: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {KEY: Counter(), OTHER: Counter()}
    hints: list[int] = []
    survivor_was_safe = True

    async def client(key: str) -> None:
        nonlocal survivor_was_safe
        while time.monotonic() < ends:
            before = killed[key]
            try:
                text, completion = await answer(pair, endless(12), key=key)
            except WorkerDied as error:
                survivor_was_safe &= killed[key] > before
                hints.append(int(error.metadata["retry_after_ms"]))
                outcomes[key]["failed"] += 1
            else:
                assert text
                assert completion.usage.completion_tokens == 12
                outcomes[key]["whole"] += 1

    async def killer() -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(random_.uniform(0.7, 1.5))
            key = random_.choice((KEY, KEY, OTHER))
            async with pair.lease(key) as leased:
                if leased.worker.pid:
                    killed[key] += 1
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
    print(dict(killed), {key: dict(counts) for key, counts in outcomes.items()})


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
    print(f"{CYCLES} cycles: {before} -> {after}")
    assert (after.files, after.children, after.sockets) == (before.files, 0, 0)
    assert after.rss - before.rss < 8 << 20
