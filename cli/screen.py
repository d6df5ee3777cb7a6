"""Where commands write: answers on stdout, progress on stderr, JSON where scripts read. No network in here."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]

progress_console = Console(stderr=True)
console = Console()


def print_json(value: object) -> None:
    """One JSON value on stdout, for scripts."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None))
