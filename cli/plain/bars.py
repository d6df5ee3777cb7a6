"""One bar for work that counts bytes: how far, how fast, how long still; nothing at all in a pipe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli import screen

OnProgress = Callable[[int, int], None]
"""Takes bytes done and bytes in all."""


@contextmanager
def byte_bar(what: str) -> Iterator[OnProgress]:
    """A bar on stderr that moves when what it gives is called; it spins until then."""
    console = screen.progress_console
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:10}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
