"""`deltaic`: run a role, publish a model, move a channel, talk to a model, see the fleet, work on plain files."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import typer

from deltaic.errors import DeltaicError

_OUR_MISTAKE = 70
_HELP = "Carry language models from a center to branch edges to devices; answer at the nearest place that may see."

_ROOMS = ("nodes", "gateway", "publish", "registry", "tags", "chat", "plain", "engine", "fleet", "audit", "demo")
_ON_FILES = ("diff", "patch", "inspect", "split", "join")


def app_for(words: Sequence[str]) -> typer.Typer:
    """The command, with all that `words`, its arguments, may mean.

    A tool that works on files alone comes alone: it starts in a fifth of a second, without gRPC and its memory.
    """
    app = typer.Typer(
        name="deltaic",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # a command that comes alone is still named
    for room in _alone(words) or _ROOMS:
        import_module(f"cli.{room}").register(app)
    return app


def _alone(words: Sequence[str]) -> list[str]:
    """The room of a tool that works on files alone; none for all other commands."""
    return [f"plain.{word}" for word in words[:1] if word in _ON_FILES]


def configure_logs(level: str, *, json: bool) -> None:
    """Tools on files log nothing and do without the loggers."""
    from deltaic.runtime import logs

    logs.configure_logs(level, json=json)


def main() -> None:
    """Entry point: whatever goes wrong is one line that says what to do, never a traceback.

    Exit status: 1 for a refusal, 2 for a command that does not parse, 70 for our own mistake, 130 for Ctrl-C.
    """
    words = sys.argv[1:]
    if not _alone(words):
        configure_logs("error", json=False)  # output is for people; a role configures its own logs over this
    try:
        status = app_for(words)(prog_name="deltaic", standalone_mode=False)
    except typer.Abort:
        status = 130
    except Exception as error:  # noqa: BLE001  # the last net: below it there is only the interpreter's traceback
        line, status = explain(error)
        if status == _OUR_MISTAKE and os.environ.get("DELTAIC_DEBUG"):
            traceback.print_exception(error)
        if line:
            print(f"deltaic: {line}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception) -> tuple[str, int]:
    """What to tell the user, in one line, and the exit status. The line is empty when all is said."""
    if isinstance(error, DeltaicError):
        return str(error), 1
    if say := getattr(error, "format_message", None):  # what every exception of the parser has, public or not
        return _usage(say(), getattr(error, "ctx", None)), int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    text = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {text}; please report it", _OUR_MISTAKE


def _usage(message: str, context: typer.Context | None) -> str:
    text = " ".join(message.split()).rstrip(".")
    help_of = context.command_path if context else "deltaic"
    return f"{text[:1].lower()}{text[1:]}; see {help_of} --help" if text else ""


if __name__ == "__main__":
    main()
