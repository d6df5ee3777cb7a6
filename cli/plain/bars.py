"""One bar for work that counts bytes: how far, how fast, how long still; nothing at all in a pipe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli import screen

OnProgress = Callable[[int, int], None]
"""Takes bytes done and bytes in all."""


@contextmanager
def byte_bar(what: str) -> Iterator[OnProgress]:
    """A bar on stderr that moves when what it gives is called; it spins until then."""
    console = screen.progress_console
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    from rich import progress  # only where somebody looks: a fiftieth of a second

    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description:10}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
    ) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
