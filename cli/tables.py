"""Rows for people and for pipes: nothing is ever cut, since a digest that is cut is worth nothing."""

from collections.abc import Collection, Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from cli import screen
from deltaic.errors import BadName
from deltaic.names import ChannelName

_GAP = "  "


def print_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    below: Sequence[Sequence[str]] = (),
    right: Collection[str] = (),
) -> None:
    """Print rows under their columns; those in `right` have their cells at the right, as numbers are read.

    In a terminal that is too narrow for a row, each group of columns in `below` gets a line of its own under the rest.
    In a pipe every row is one line, however long.
    """
    table = [tuple(columns), *(tuple(_printable(cell) for cell in row) for row in rows)]
    widths = [max(cell_len(row[index]) for row in table) for index in range(len(columns))]
    lines = [tuple(range(len(columns)))]
    if is_terminal() and sum(widths) + len(_GAP) * (len(widths) - 1) > screen.console.width:
        groups = [tuple(columns.index(name) for name in group) for group in below]
        moved = {index for group in groups for index in group}
        lines = [tuple(index for index in lines[0] if index not in moved), *groups]
    for number, row in enumerate(table):
        cells = [_sized(cell, width, name in right) for name, cell, width in zip(columns, row, widths, strict=True)]
        for place, line in enumerate(lines):
            text = _GAP.join(cells[index] for index in line).rstrip()
            if text:
                print_line(_GAP + text if place else text, "bold" if number == 0 else "")


def _sized(cell: str, width: int, right: bool) -> str:
    return " " * (width - cell_len(cell)) + cell if right else set_cell_size(cell, width)


def print_line(text: str, style: str = "") -> None:
    """One line that is never wrapped, so that a name in it can be copied; `text` is no markup."""
    screen.console.print(Text(text, style), soft_wrap=True)


def is_terminal() -> bool:
    """Whether a person reads: names may be short then."""
    return screen.console.is_terminal


def channel_words(name: str) -> str:
    """MODEL/CHANNEL for people, the full name for pipes."""
    try:
        channel = ChannelName.parse(name)
    except BadName:
        return name
    return f"{channel.model}/{channel.channel}" if is_terminal() else name


def _printable(text: str) -> str:
    """One line without control characters: descriptions and names of nodes are other people's words."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
