"""A writer killed at any moment leaves something that has one meaning and can be finished."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("crash_points.py")


@pytest.mark.parametrize(("operation", "at_least"), [("commit", 30), ("reopen", 8), ("remove", 8), ("threads", 10)])
def test_killed_anywhere_it_can_be_finished(operation: str, at_least: int, tmp_path: Path, tiny_gguf):
    model = tiny_gguf(ballast=2_000_000 if operation == "threads" else 0)
    command = [sys.executable, PROGRAM, operation, model, tmp_path / "models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= at_least
