"""`deltaic demo`: a center, two edges and a device on this machine, and a model's whole journey through them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import run
from cli.screen import JsonOption, print_json, progress_console


def register(app: typer.Typer) -> None:
    app.command("demo", rich_help_panel="Start here")(demo)


def demo(
    as_json: JsonOption = False,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of traffic in each phase.")] = 6.0,
    keep: Annotated[Path | None, typer.Option(help="Empty folder for data and logs, kept afterwards.")] = None,
) -> None:
    """Publish, pull, answer and update a real model through four real processes.

    Starts one center, a branch of two edges and one device on loopback, publishes three versions while requests flow,
    kills an edge, stops the center, brings both back, and checks at each step what should be true. Needs the demo
    models (make models). Exit status 0 only if every check held.
    """
    from cli.demo.journey import Journey
    from cli.demo.models import DemoModels
    from cli.demo.summary import as_dict, print_summary
    from deltaic.runtime.logs import configure_logs

    configure_logs("error", json=False)
    result = run(Journey(DemoModels.find(), seconds, keep).walk(progress_console))
    if as_json:
        print_json(as_dict(result))
    else:
        print_summary(result)
    sys.exit(0 if result.held else 1)
