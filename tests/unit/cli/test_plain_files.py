"""What the plain tools refuse before they do anything, and how they end."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console

from cli import screen
from cli.plain.apart import run_apart
from cli.plain.bars import byte_bar
from cli.plain.files import at_work, given_file, output_file, percent
from deltaic.errors import InvalidArgument, NotFound
from deltaic.store.errors import DiskFailed, DiskFull


def test_an_input_is_a_file_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no file at"):
        given_file(tmp_path / "none", "a file")
    with pytest.raises(InvalidArgument, match="not a regular file; name a delta"):
        given_file(tmp_path, "a delta")
    assert given_file(Path(__file__), "a file") == Path(__file__)


def test_an_output_is_never_an_input_under_any_name(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_text("precious")
    (tmp_path / "soft").symlink_to(one)
    (tmp_path / "hard").hardlink_to(one)
    for name in ("one", "soft", "hard", "../" + tmp_path.name + "/one"):
        with pytest.raises(InvalidArgument, match="is an input and would be lost"):
            output_file(tmp_path / name, one)
    assert output_file(tmp_path / "two", one) == tmp_path / "two"


def test_an_output_has_a_folder_and_is_no_folder_and_no_device(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no folder"):
        output_file(tmp_path / "none" / "file")
    with pytest.raises(InvalidArgument, match="is a folder"):
        output_file(tmp_path)
    with pytest.raises(InvalidArgument, match="not a regular file"):
        output_file(Path("/dev/null"))


def test_a_full_disk_and_a_failing_one_are_said_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="free space there"), at_work(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFailed, match="Input/output error"), at_work(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(PermissionError), at_work(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/x.gguf")
    with pytest.raises(NotFound), at_work(tmp_path):
        raise NotFound("no model")


def test_ctrl_c_ends_with_130_and_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, at_work(tmp_path, "run it again to go on"):
        raise KeyboardInterrupt
    assert left.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted; run it again to go on\n"


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(0, 100, "0.00 %"), (1, 10_000_000, "<0.01 %"), (13, 400, "3.25 %"), (7, 7, "100.00 %"), (1, 0, "0.00 %")],
)
def test_a_share_that_is_there_is_never_shown_as_nothing(part: int, whole: int, words: str) -> None:
    assert percent(part, whole) == words


def test_work_apart_gives_its_result_and_its_error() -> None:
    assert run_apart(lambda _go_on: 7, give_up=lambda: None) == 7

    def broken(_go_on: object) -> None:
        raise NotFound("no model")

    with pytest.raises(NotFound):
        run_apart(broken, give_up=lambda: None)


def test_ctrl_c_stops_work_apart_where_it_asks_and_its_children_do_not_hear_it() -> None:
    children: list[subprocess.Popen[bytes]] = []
    left = threading.Event()

    def work(go_on) -> None:
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        os.kill(os.getpid(), signal.SIGINT)
        children[0].send_signal(signal.SIGINT)
        try:
            while True:
                go_on()
                time.sleep(0.001)
        finally:
            left.set()

    with pytest.raises(KeyboardInterrupt):
        run_apart(work, give_up=lambda: pytest.fail("it did stop"))
    assert left.is_set()
    assert children[0].poll() is None, "a child is ended by us, not by the keyboard"
    children[0].kill()
    children[0].wait()


def test_work_that_does_not_stop_is_left_to_whoever_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.plain.apart._PATIENCE_SECONDS", 0.01)
    may_end, given_up = threading.Event(), threading.Event()

    def work(_go_on: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        may_end.wait()

    with pytest.raises(KeyboardInterrupt):
        run_apart(work, give_up=given_up.set)
    assert given_up.is_set()
    may_end.set()


def test_a_bar_shows_how_far_how_fast_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(screen, "progress_console", console)
    with byte_bar("patch") as advance:
        advance(25_000_000, 100_000_000)
        advance(50_000_000, 100_000_000)
    assert re.search(r"patch .*50\.0/100\.0 MB .*(/s|\?) .*[0-9-]:[0-9-]", shown.getvalue())
