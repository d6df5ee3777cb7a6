"""The plain tools: `deltaic diff`, `patch`, `inspect`, `split`, `join` on files without any service, and `verify`."""

import typer

from cli.plain import diff, inspect, join, patch, split, verify


def register(app: typer.Typer) -> None:
    """Add the commands that need no service."""
    for command in (diff, patch, inspect, split, join, verify):
        command.register(app)
