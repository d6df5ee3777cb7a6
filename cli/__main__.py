"""`deltaic`: run a role, publish a model, move a channel, talk to a model, see the fleet."""

import sys

import typer

from cli import audit, chat, demo, fleet, nodes, publish, registry
from deltaic.errors import DeltaicError

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
chat.register(app)
fleet.register(app)
audit.register(app)
demo.register(app)


def main() -> None:
    """Entry point: a user's mistake is one line that says what to do, never a traceback."""
    try:
        app()
    except DeltaicError as error:
        print(f"deltaic: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
