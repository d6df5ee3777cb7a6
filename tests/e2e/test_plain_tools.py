"""The plain tools as processes: a script's way through all of them, and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Deltaic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_version_travels_as_a_delta_and_as_pieces(deltaic: Deltaic, tiny_gguf, tmp_path: Path) -> None:
    old = tiny_gguf("old.gguf", folder=tmp_path, ballast=6 << 20)
    new = tiny_gguf("new.gguf", folder=tmp_path, ballast=6 << 20, seed=1)
    shown = deltaic("diff", str(old), str(new), "--jobs", "2")
    assert (shown.returncode, shown.stderr) == (0, ""), "no bars in a pipe"
    delta = tmp_path / "new.delta"
    assert deltaic("patch", str(old), str(delta), "-o", str(tmp_path / "same.gguf")).returncode == 0
    assert (tmp_path / "same.gguf").read_bytes() == new.read_bytes()
    assert "blk.0.attn_q.weight" in deltaic("inspect", str(delta)).stdout
    assert deltaic("split", str(new), "--by", "layer", "-o", str(tmp_path / "pieces")).returncode == 0
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "pieces", check=True)
    assert deltaic("join", str(tmp_path / "pieces"), "-o", str(tmp_path / "joined.gguf")).returncode == 0
    assert (tmp_path / "joined.gguf").read_bytes() == new.read_bytes()
    assert names(tmp_path) == ["joined.gguf", "new.delta", "new.gguf", "old.gguf", "pieces", "same.gguf"]


class TestCtrlC:
    """What Ctrl-C sends goes to every process of the command."""

    @pytest.fixture
    def large(self, tiny_gguf, tmp_path: Path) -> tuple[Path, Path]:
        old = tiny_gguf("old.gguf", folder=tmp_path, ballast=64 << 20)
        return old, tiny_gguf("new.gguf", folder=tmp_path, ballast=64 << 20, seed=1)

    def interrupted(self, *arguments: str, once: Callable[[psutil.Process], object]) -> str:
        """Start, press Ctrl-C as soon as something is true, and give what it said at its end."""
        with subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            watched = psutil.Process(process.pid)
            deadline = time.monotonic() + 60
            while not once(watched):
                assert process.poll() is None, "it ended before it could be interrupted"
                assert time.monotonic() < deadline
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 130, said
        assert "Traceback" not in said
        return said

    def test_diff_leaves_nothing_behind(self, large: tuple[Path, Path], tmp_path: Path) -> None:
        target = str(tmp_path / "d.delta")

        def encodes(process: psutil.Process) -> bool:
            return len(process.children()) > 1 and (tmp_path / ".d.delta.packs").exists()

        said = self.interrupted("diff", *map(str, large), "-o", target, "--jobs", "2", once=encodes)
        assert said == "interrupted; nothing was left behind\n"
        assert names(tmp_path) == ["new.gguf", "old.gguf"]

    def test_patch_leaves_nothing_behind(self, deltaic: Deltaic, large: tuple[Path, Path], tmp_path: Path) -> None:
        old, new = map(str, large)
        assert deltaic("diff", old, new, "-o", str(tmp_path / "d.delta")).returncode == 0
        growing = tmp_path / ".out.gguf.part"
        said = self.interrupted(
            "patch", old, str(tmp_path / "d.delta"), "-o", str(tmp_path / "out.gguf"), once=lambda _: growing.exists()
        )
        assert said == "interrupted; nothing was left behind\n"
        assert names(tmp_path) == ["d.delta", "new.gguf", "old.gguf"]

    def test_split_and_join_go_on_where_they_were(
        self, deltaic: Deltaic, large: tuple[Path, Path], tmp_path: Path
    ) -> None:
        old, _ = large
        folder, target = tmp_path / "pieces", tmp_path / "again.gguf"
        split = ("split", str(old), "--by", "size", "--size", "4MiB", "-o", str(folder))
        said = self.interrupted(*split, once=lambda _: (folder / "0003-gguf.piece").exists())
        assert said == "interrupted; run it again to go on\n"
        made = json.loads(deltaic(*split, "--json").stdout)
        assert made["kept_bytes"] >= 16 << 20
        growing = tmp_path / ".again.gguf.part"
        said = self.interrupted(
            "join",
            str(folder),
            "-o",
            str(target),
            once=lambda _: growing.exists() and growing.stat().st_size > 16 << 20,
        )
        assert said == "interrupted; run it again to go on\n"
        assert not target.exists()
        joined = json.loads(deltaic("join", str(folder), "-o", str(target), "--json").stdout)
        assert joined["kept_bytes"] >= 16 << 20
        assert target.read_bytes() == old.read_bytes()
