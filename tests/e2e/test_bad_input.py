"""A user's mistakes: each is one clear line that says what to do, and loses nothing."""

import shutil
import socket
from pathlib import Path

import pytest

from cli.demo.processes import Node, free_port
from tests.e2e.conftest import Deltaic, one_line


def test_publishing_to_a_center_that_does_not_answer(deltaic: Deltaic, tiny_gguf) -> None:
    address = f"127.0.0.1:{free_port()}"
    line = one_line(deltaic("publish", str(tiny_gguf()), "-m", "tiny", "--center", address))
    assert f"no answer from center {address}" in line
    assert "is it running" in line


async def test_publishing_what_is_not_a_model(deltaic: Deltaic, center: Node, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no model at all, but long enough to hold a header of some kind")
    assert "GGUF" in one_line(deltaic("publish", str(text), "-m", "tiny", "--center", center.address))
    missing = one_line(deltaic("publish", str(tmp_path / "none.gguf"), "-m", "tiny", "--center", center.address))
    assert "no file at" in missing


async def test_publishing_a_truncated_file(deltaic: Deltaic, center: Node, tiny_gguf, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    whole = tiny_gguf().read_bytes()
    cut.write_bytes(whole[: len(whole) - 100])
    line = one_line(deltaic("publish", str(cut), "-m", "tiny", "--center", center.address))
    assert "but the tensor" in line
    assert "copy or download the file again" in line
    assert deltaic("channels", "--center", center.address, "--json").stdout.strip() == "[]"


async def test_a_file_that_no_engine_loads_never_becomes_a_revision(deltaic: Deltaic, center: Node, tiny_gguf) -> None:
    line = one_line(deltaic("publish", str(tiny_gguf()), "-m", "tiny", "--center", center.address))
    assert "load" in line
    assert deltaic("channels", "--center", center.address, "--json").stdout.strip() == "[]"


async def test_unknown_names(deltaic: Deltaic, center: Node) -> None:
    digest = "sha256:" + "0" * 64
    assert "ghost" in one_line(deltaic("revisions", "ghost", "--center", center.address))
    assert "ghost" in one_line(deltaic("move", "ghost/stable", digest, "--center", center.address))
    channel = one_line(deltaic("move", "ghost/stable", "models/ghost/channels/stable", "--center", center.address))
    assert "a channel is not a revision" in channel
    assert "MODEL/CHANNEL" in one_line(deltaic("move", "Bad Name", digest, "--center", center.address))


async def test_asking_a_node_for_a_model_that_nobody_has(deltaic: Deltaic, center: Node) -> None:
    line = one_line(deltaic("ask", "ghost", "Who are you?", "--node", center.address))
    assert "ghost" in line


@pytest.mark.parametrize("role", ["center", "edge", "device"])
def test_a_port_in_use(deltaic: Deltaic, role: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = one_line(deltaic(role, "--listen", address, "--data-dir", str(tmp_path / role)))
    assert address in line
    assert "--listen" in line


@pytest.mark.parametrize("role", ["center", "edge", "device"])
def test_a_setting_that_is_wrong(deltaic: Deltaic, role: str, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('colour = "blue"\n')
    assert "colour" in one_line(deltaic(role, "--config", str(settings)))
    settings.write_text("listen = \n")
    assert "settings.toml" in one_line(deltaic(role, "--config", str(settings)))
    assert "no settings file at" in one_line(deltaic(role, "--config", str(tmp_path / "none.toml")))


@pytest.mark.parametrize("role", ["center", "edge", "device"])
def test_help_teaches_every_flag(deltaic: Deltaic, role: str) -> None:
    shown = deltaic(role, "--help")
    assert shown.returncode == 0
    for flag in ("--listen", "--data-dir", "--log-level", "--engine.slots"):
        assert flag in shown.stdout, flag


def test_a_redis_url_that_does_not_answer(deltaic: Deltaic, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    listen = f"127.0.0.1:{free_port()}"
    line = one_line(deltaic("edge", "--listen", listen, "--data-dir", str(tmp_path / "edge"), "--index-url", url))
    assert url in line


def test_two_centers_on_one_folder(deltaic: Deltaic, tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "center"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in one_line(deltaic("center", "--listen", address, "--data-dir", str(folder)))
    locks = [path for path in folder.rglob("*") if "lock" in path.name]
    assert locks
    with locks[0].open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        address = f"127.0.0.1:{free_port()}"
        assert str(folder) in one_line(deltaic("center", "--listen", address, "--data-dir", str(folder)))
    shutil.rmtree(folder)
