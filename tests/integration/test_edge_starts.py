"""Starting an edge wrongly: one clear line that says what to do, exit status 1, nothing left running."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTAIC_")}
    return subprocess.run(
        [sys.executable, "-m", "edge", *flags], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def complaint(result: "subprocess.CompletedProcess[str]") -> str:
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("deltaic edge: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_is_named_and_the_index_does_not_stay_behind(tmp_path: Path, taken_port: int) -> None:
    line = complaint(run("--listen", f"127.0.0.1:{taken_port}", "--data-dir", str(tmp_path)))
    assert f"cannot listen on 127.0.0.1:{taken_port}" in line
    assert "--listen" in line
    assert not [each for each in psutil.process_iter() if str(tmp_path) in " ".join(_cmdline(each))]


def test_a_redis_url_that_does_not_answer_is_named_with_three_ways_out(tmp_path: Path, unused_tcp_port: int) -> None:
    url = f"redis://127.0.0.1:{unused_tcp_port}/0"
    line = complaint(run("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), "--index-url", url))
    assert f"the index at {url} does not answer" in line
    assert "start it, correct index_url, or leave index_url empty" in line


def test_something_else_than_a_redis_server_behind_the_url_is_said_in_time(tmp_path: Path, taken_port: int) -> None:
    url = f"redis://127.0.0.1:{taken_port}/0"
    line = complaint(run("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), "--index-url", url))
    assert f"the index at {url} does not answer" in line


def test_a_data_folder_that_another_edge_has_is_not_shared(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = complaint(run("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)))
    assert str(tmp_path) in line
    assert "--data-dir" in line


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = complaint(run("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "file" / "edge")))
    assert str(tmp_path / "file" / "edge") in line


@pytest.mark.parametrize("flags", [("--channels", "No Name"), ("--index-url", "http://x"), ("--colour", "blue")])
def test_a_wrong_setting_is_named(flags: tuple[str, str]) -> None:
    assert flags[0].removeprefix("--").replace("-", "_") in complaint(run(*flags)).replace("-", "_")


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
