"""What a worker will need, what there is, and what is refused."""

from pathlib import Path

import pytest

from deltaic.engine.control_group import MemoryGroup
from deltaic.engine.ending import Cause, ending_of
from deltaic.engine.errors import NotEnoughMemory, WorkerFailed
from deltaic.engine.memory_budget import MemoryBudget, available_memory
from deltaic.engine.placement.memory import worker_bytes
from deltaic.engine.settings import EngineSettings

MIB = 1 << 20
KV = 30 * 3 * (64 + 64) * 2  # layers x heads x (key + value) x f16, of the demo model, a token


@pytest.mark.model
def test_an_estimate_grows_with_the_tokens_that_slots_hold(demo_model_path: Path) -> None:
    small = worker_bytes(demo_model_path, EngineSettings(slots=1, context_tokens=1024, flash_attention="on"))
    large = worker_bytes(demo_model_path, EngineSettings(slots=1, context_tokens=3072, flash_attention="on"))
    assert 2 * 2048 * KV <= large - small < 3 * 2048 * KV  # in the slots, and as much for states of prompts
    assert small > demo_model_path.stat().st_size + 1024 * KV


@pytest.mark.model
def test_a_context_beyond_what_the_model_knows_is_not_counted(demo_model_path: Path) -> None:
    within, beyond = (
        worker_bytes(demo_model_path, EngineSettings(slots=1, context_tokens=tokens)) for tokens in (8192, 99_999)
    )
    assert within == beyond


def test_a_file_that_is_no_model_counts_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"GGUF" + bytes(MIB))
    assert MIB < worker_bytes(path, EngineSettings()) < 1024 * MIB


def test_a_limit_is_for_all_workers_together_and_freed_by_those_that_end() -> None:
    budget = MemoryBudget(limit=100)
    budget.grant("w1", 60, "one")
    budget.started("w1")
    with pytest.raises(NotEnoughMemory, match="two needs about 50 bytes of memory and 40 are available") as caught:
        budget.grant("w2", 50, "two")
    assert isinstance(caught.value, WorkerFailed)
    assert caught.value.metadata == {"needed_bytes": "50", "available_bytes": "40"}
    assert "engine.memory_bytes" in caught.value.hint
    budget.give_back("w1")
    budget.grant("w2", 50, "two")


def test_without_a_limit_a_worker_that_is_starting_is_counted_and_one_that_has_started_is_measured() -> None:
    available = 100
    budget = MemoryBudget(0, lambda: available)
    budget.grant("w1", 60, "one")
    with pytest.raises(NotEnoughMemory, match="40 are available"):
        budget.grant("w2", 50, "two")
    budget.started("w1")
    available = 60
    budget.grant("w2", 50, "two")


def test_what_is_refused_is_not_counted() -> None:
    budget = MemoryBudget(limit=100)
    with pytest.raises(NotEnoughMemory):
        budget.grant("w1", 101, "one")
    budget.grant("w2", 100, "two")


def test_this_machine_has_some_memory() -> None:
    assert 16 * MIB < available_memory() < 1 << 50


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[Path, Path]:
    """/proc and /sys/fs/cgroup, empty but for process 7."""
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "7").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 9\noom_kill 5\n")
    mount.mkdir()
    return proc, mount


def test_a_group_of_the_second_generation_is_limited_by_those_it_is_in(kernel: tuple[Path, Path]) -> None:
    proc, mount = kernel
    (proc / "7" / "cgroup").write_text("0::/fleet/edge\n")
    inner = mount / "fleet" / "edge"
    inner.mkdir(parents=True)
    for folder, limit, used in ((inner, "max", 10), (inner.parent, "1000", 700)):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    (inner / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    group = MemoryGroup.of(7, proc=proc, mount=mount)
    assert group.room() == 1000 - 700 + 100
    assert group.kills() == 2


def test_a_group_of_the_first_generation_is_read_too(kernel: tuple[Path, Path]) -> None:
    proc, mount = kernel
    (proc / "7" / "cgroup").write_text("3:cpu:/\n4:memory:/box\n0::/\n")
    box = mount / "memory" / "box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text("500\n")
    (box / "memory.usage_in_bytes").write_text("450\n")
    (box / "memory.stat").write_text("total_inactive_file 30\n")
    (box / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    group = MemoryGroup.of(7, proc=proc, mount=mount)
    assert (group.room(), group.kills()) == (80, 1)


def test_without_a_group_nothing_limits_and_the_machine_counts(kernel: tuple[Path, Path]) -> None:
    proc, mount = kernel
    group = MemoryGroup.of(7, proc=proc, mount=mount)
    assert group.kills() == 5
    assert group.room() > 1 << 50


def test_only_a_kill_that_the_kernel_counted_is_called_lack_of_memory() -> None:
    killed = ending_of(-9, "", explained=False, out_of_memory=True)
    assert (killed.cause, "memory" in killed.text) == (Cause.OUT_OF_MEMORY, True)
    assert ending_of(-9, "", explained=False, out_of_memory=False).text == "it was ended by SIGKILL"
    assert ending_of(-6, "GGML_ASSERT", explained=False, out_of_memory=True).cause is Cause.DIED
    assert ending_of(1, "no room for 4 slots", explained=True, out_of_memory=True).text == "no room for 4 slots"
