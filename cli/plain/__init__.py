"""The plain tools: `deltaic diff`, `patch`, `inspect`, `split`, `join` on files without any service, and `verify`."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands that need no service."""
    from cli.plain import diff, inspect, join, patch, split, verify  # one of them alone starts faster

    for command in (diff, patch, inspect, split, join, verify):
        command.register(app)
