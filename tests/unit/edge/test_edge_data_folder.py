"""One edge owns one data folder."""

import os
import subprocess
import sys

import pytest

from deltaic.runtime.data_folder import DataFolderUnusable, own_data_folder, runtime_folder

HOLD = """
import pathlib, sys
from deltaic.runtime.data_folder import own_data_folder
with own_data_folder(pathlib.Path(sys.argv[1]), "edge"):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_edge_is_told_who_has_the_folder(tmp_path):
    with (
        own_data_folder(tmp_path / "edge", "edge") as folder,
        pytest.raises(DataFolderUnusable, match=f"process {os.getpid()}"),
        own_data_folder(folder, "edge"),
    ):
        pytest.fail("two edges own one folder")


def test_the_folder_is_free_again_when_the_owner_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(DataFolderUnusable), own_data_folder(tmp_path, "edge"):
            pytest.fail("two edges own one folder")
        owner.kill()
    with own_data_folder(tmp_path, "edge") as folder:
        assert folder == tmp_path


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(DataFolderUnusable, match="cannot use the data folder"),
        own_data_folder(tmp_path / "file" / "edge", "edge"),
    ):
        pytest.fail("a folder inside a file")


def test_sockets_get_a_short_private_path_that_is_the_same_at_every_start(tmp_path):
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    run = runtime_folder(deep)
    try:
        assert len(str(run)) <= 60
        assert run.stat().st_mode & 0o777 == 0o700
        (run / "stale.sock").touch()
        assert runtime_folder(deep) == run
        assert list(run.iterdir()) == []
    finally:
        run.rmdir()
