"""A trial load that fails: what is the file's fault, and what is the machine's."""

import sys
from pathlib import Path

import pytest

from center.errors import TrialLoadFailed, TrialLoadUnfinished
from center.trial import WorkerTrial
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker_process import WorkerProcess
from deltaic.errors import Code
from deltaic.names import RevisionName

NAME = RevisionName("m", f"sha256:{1:064x}")
REFUSES = "import sys; sys.stderr.write('error: no such architecture'); sys.exit(1)"


async def tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], start_timeout: float = 60.0
) -> TrialLoadFailed | TrialLoadUnfinished:
    """How a trial ends whose worker is this command."""
    monkeypatch.setattr(WorkerProcess, "_command", lambda _process: command)
    trial = WorkerTrial(folder, EngineSettings(start_timeout=start_timeout), "center@test")
    with pytest.raises((TrialLoadFailed, TrialLoadUnfinished)) as raised:
        await trial(NAME, folder / "model.gguf")
    return raised.value


async def test_a_worker_that_refuses_the_file_is_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = await tried(tmp_path, monkeypatch, [sys.executable, "-c", REFUSES])
    assert error.code is Code.INVALID_ARGUMENT
    assert "no such architecture" in error.message


async def test_a_worker_that_aborts_over_the_file_is_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await tried(tmp_path, monkeypatch, ["sh", "-c", "kill -ABRT $$"])).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("command", "seconds", "said"),
    [
        (["sleep", "60"], 0.2, "within 0.2 seconds"),
        (["sh", "-c", "kill -KILL $$"], 60.0, "SIGKILL"),
        (["/nowhere/python"], 60.0, "could be started"),
    ],
    ids=["no time", "no memory", "no process"],
)
async def test_what_the_machine_could_not_do_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], seconds: float, said: str
) -> None:
    error = await tried(tmp_path, monkeypatch, command, seconds)
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "TRIAL_LOAD_UNFINISHED")
    assert said in error.message
    assert "again" in error.hint
