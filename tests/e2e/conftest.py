"""Whole nodes as processes, driven by the command as a person types it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cli.demo.processes import Node

Deltaic = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def deltaic(tmp_path: Path) -> Deltaic:
    """Run `deltaic ARGS` to its end, away from the settings of whoever runs the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTAIC_")}
    environment |= {"XDG_DATA_HOME": str(tmp_path / "share"), "COLUMNS": "200", "NO_COLOR": "1"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            capture_output=True,
            text=True,
            timeout=90,
            env=environment | more,
            check=False,
        )

    return run


@pytest.fixture
async def center(tmp_path: Path) -> AsyncIterator[Node]:
    """A center with nothing in it."""
    node = Node("center", tmp_path / "nodes")
    node.folder.mkdir()
    await node.start()
    yield node
    await node.stop()


def one_line(result: "subprocess.CompletedProcess[str]") -> str:
    """What a user sees for a mistake: exit status 1, one line, no traceback."""
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("deltaic")]
    assert len(lines) == 1, result.stderr
    return lines[0]
