"""`deltaic`: run a role, publish a model, move a channel, talk to a model, see the fleet, work on plain files."""

import os
import sys
import traceback

import typer

from cli import audit, chat, demo, fleet, nodes, plain, publish, registry, tags
from deltaic.errors import DeltaicError
from deltaic.runtime.logs import configure_logs

_OUR_MISTAKE = 70

app = typer.Typer(
    name="deltaic",
    help="Carry language models from a center to branch edges to devices; answer at the nearest place that may see.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

nodes.register(app)
publish.register(app)
registry.register(app)
tags.register(app)
chat.register(app)
plain.register(app)
fleet.register(app)
audit.register(app)
demo.register(app)


def main() -> None:
    """Entry point: whatever goes wrong is one line that says what to do, never a traceback.

    Exit status: 1 for a refusal, 2 for a command that does not parse, 70 for our own mistake, 130 for Ctrl-C.
    """
    configure_logs("error", json=False)  # a command's output is for people; a role configures its own logs over this
    try:
        status = app(prog_name="deltaic", standalone_mode=False)
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
