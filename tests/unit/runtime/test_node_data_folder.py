"""The folder that one node owns: one process at a time, a short path for sockets, clear refusals."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deltaic.runtime.data_folder import DataFolderUnusable, own_data_folder, runtime_folder


def test_a_folder_is_made_and_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with own_data_folder(folder, "edge") as owned:
        assert owned == folder
        assert folder.is_dir()
        with (
            pytest.raises(DataFolderUnusable, match=rf"edge \(process {os.getpid()}\)") as caught,
            own_data_folder(folder, "edge"),
        ):
            pytest.fail("it was given away twice")
        assert "--data-dir" in str(caught.value)
    with own_data_folder(folder, "device"):
        pass


def test_a_full_disk_does_not_keep_a_node_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        own_data_folder(tmp_path, "edge"),
        pytest.raises(DataFolderUnusable, match="another process works"),
        own_data_folder(tmp_path, "edge"),
    ):
        pytest.fail("it was given away twice")


def test_a_process_that_dies_leaves_its_folder_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deltaic.runtime.data_folder import own_data_folder\n"
        "with own_data_folder(Path(sys.argv[1]), 'edge'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=False).returncode == -9
    with own_data_folder(tmp_path, "edge"):
        pass


def test_a_file_in_the_place_of_the_folder_is_one_line_of_advice(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(DataFolderUnusable, match="--data-dir") as caught, own_data_folder(folder, "edge"):
            pytest.fail("a file was taken for a folder")
        assert "\n" not in str(caught.value)


def test_sockets_live_below_the_folder_and_stale_ones_are_removed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        run = runtime_folder(Path(short))
        assert run == Path(short).resolve() / "run"
        (run / "old.sock").touch()
        (run / "kept.txt").touch()
        assert runtime_folder(Path(short)) == run
        assert [path.name for path in run.iterdir()] == ["kept.txt"]
        assert run.stat().st_mode & 0o077 == 0


def test_a_folder_with_a_long_name_has_its_sockets_elsewhere_always_in_the_same_place(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    run = runtime_folder(long)
    try:
        assert len(os.fsencode(run)) <= 60
        assert runtime_folder(long) == run
    finally:
        run.rmdir()


def test_a_link_in_the_place_of_the_sockets_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, folder, other = tmp_path / "t", tmp_path / ("long" * 20), tmp_path / "other"
    for each in (temporary, folder, other):
        each.mkdir()
    (other / "precious.sock").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run = runtime_folder(folder)
    run.rmdir()
    run.symlink_to(other)
    with pytest.raises(DataFolderUnusable, match="is a link or belongs to another user"):
        runtime_folder(folder)
    assert (other / "precious.sock").exists()


def test_a_file_in_the_place_of_the_sockets_is_one_line_of_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    run = runtime_folder(folder)
    run.rmdir()
    run.write_text("")
    with pytest.raises(DataFolderUnusable, match=r"cannot make .* for sockets"):
        runtime_folder(folder)
