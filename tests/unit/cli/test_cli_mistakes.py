"""Mistakes, the user's and ours: one line each, with the exit status that scripts rely on."""

import io
import sys

import pytest
from rich.console import Console

from cli import __main__ as command
from cli.chat import Label, build_request
from cli.publish import Manifest, UploadStats, _bars, _held, publish
from cli.texts import checked, read_stdin
from deltaic.errors import InvalidArgument, NotFound
from deltaic.v1 import inference_pb2

FOREIGN = b"na\xefve".decode(errors="surrogateescape")


@pytest.fixture
def deltaic(monkeypatch, capsys):
    """Run the command in this process: its exit status and what it said on stderr."""
    monkeypatch.setattr(command, "configure_logs", lambda *_, **__: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["deltaic", *arguments])
        with pytest.raises(SystemExit) as left:
            command.main()
        return left.value.code or 0, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "no such command 'nope'; see deltaic --help"),
        (["ask"], "see deltaic ask --help"),
        (["move", "a/b", "1", "--colour"], "no such option: --colour; see deltaic move --help"),
        (["ask", "m", "hi", "-n", "9999999999999"], "--max-tokens"),
        (["ask", "m", "hi", "-n", "0"], "--max-tokens"),
    ],
)
def test_a_command_that_does_not_parse_is_one_line(deltaic, arguments, says) -> None:
    status, said = deltaic(*arguments)
    assert status == 2
    assert said.startswith("deltaic: ")
    assert said.count("\n") == 1
    assert says in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask", "m", FOREIGN], "the question is not UTF-8"),
        (["ask", "m", "hi", "-s", FOREIGN], "--system is not UTF-8"),
        (["ask", FOREIGN, "hi"], "the name of the model is not UTF-8"),
        (["ask", "m", "  "], "the question is empty"),
        (["publish", __file__, "-m", "m", "-d", FOREIGN], "the description is not UTF-8"),
        (["publish", __file__, "-m", "m", "-d", "x" * 1001], "1,001 characters"),
        (["publish", "/", "-m", "m"], "/ is not a regular file"),
        (["publish", "/none.gguf", "-m", "m"], "no file at /none.gguf"),
        (["move", "m/stable", "sha256:xyz"], "not a revision name"),
        (["gateway", "--http", "8080"], "not an address of a node: '8080'"),
        (["gateway", "--node", "http://edge:7410"], "without a scheme"),
        (["gateway", "--log-level", "loud"], "use one of debug"),
    ],
)
def test_a_refusal_is_one_line(deltaic, arguments, says) -> None:
    status, said = deltaic(*arguments)
    assert (status, said.count("\n")) == (1, 1)
    assert says in said


def test_version_and_help_end_well(deltaic) -> None:
    assert deltaic("version") == (0, "")
    assert deltaic("ask", "--help") == (0, "")


@pytest.mark.parametrize("debug", ["", "1"])
def test_our_own_mistake_is_one_line_unless_debugging(deltaic, monkeypatch, debug) -> None:
    def broken() -> None:
        raise KeyError("what\nnobody expected")

    monkeypatch.setenv("DELTAIC_DEBUG", debug)
    monkeypatch.setattr(command, "app_for", lambda _: lambda **_: broken())
    status, said = deltaic("version")
    assert status == 70
    assert said.splitlines()[-1].startswith("deltaic: internal error: KeyError: ")
    assert said.rstrip().endswith("please report it")
    assert ("Traceback" in said) == bool(debug)


def test_a_file_that_may_not_be_read_is_no_mistake_of_ours() -> None:
    assert command.explain(PermissionError(13, "Permission denied", "/x.gguf")) == ("/x.gguf: Permission denied", 1)
    assert command.explain(NotFound("no model", hint="publish it")) == ("no model; publish it", 1)


def test_standard_input_that_is_not_utf8_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"na\xefve"), encoding="utf-8"))
    with pytest.raises(InvalidArgument, match="the question is not UTF-8"):
        read_stdin("the question")


def test_a_line_of_text_passes() -> None:
    assert checked("naïve ☕", "it") == "naïve ☕"
    message = inference_pb2.ChatMessage(role="user", content="hi")
    assert build_request("m", [message], Label.PUBLIC, 1_000_000, 0.0).max_tokens == 1_000_000


async def test_a_description_is_refused_before_anything_else() -> None:
    with pytest.raises(InvalidArgument, match="1,001 characters"):
        await publish(io, model="m", channel="stable", center="127.0.0.1:1", description="x" * 1001)


def test_the_center_never_had_more_than_the_file(tiny_gguf) -> None:
    manifest = Manifest.build(tiny_gguf())
    everything = manifest.size + manifest.digest.size
    assert _held(manifest, UploadStats(everything, everything, 0, 0, 0.1)) == manifest.size
    assert _held(manifest, UploadStats(everything, 10, everything - 10, 5, 0.1)) == 10
    assert _held(manifest, UploadStats(everything, 0, everything, 5, 0.1)) == 0


def test_the_trial_load_shows_no_bytes(monkeypatch) -> None:
    monkeypatch.setattr("cli.publish.progress_console", Console(file=io.StringIO(), force_terminal=True))
    bars = _bars()
    bars.add_task("send", total=10)
    bars.add_task("vet and load once", total=None, in_bytes=False)
    sending, vetting = bars.tasks

    def text(task) -> str:
        return " ".join(str(column(task)) for column in bars.columns[3:])

    assert "bytes" in text(sending)
    assert "bytes" not in text(vetting)
    assert "?" not in text(vetting)


def test_publishing_into_a_pipe_draws_nothing(capsys) -> None:
    with _bars() as bars:
        bars.add_task("hash", total=1)
    assert capsys.readouterr() == ("", "")
