"""A picture of a delta: one cell for each tensor, layers from top to bottom, kinds of tensors from left to right.

The colour says how many bytes the delta takes of the tensor's bytes. Tensors of no layer (embedding, output, norms)
have a row of their own below.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.plain.delta_view import SegmentChange
from cli.plain.png import png_of
from cli.plain.scene import Rectangle, Scene, Words
from cli.plain.svg import svg_of
from deltaic.errors import InvalidArgument
from deltaic.weights.layout import SegmentKind
from deltaic.weights.pieces.disk import appearing, write_all

_LAYER = re.compile(r"blk\.([0-9]{1,6})\.(.+)")
_MOST_CELLS = 20_000
_MOST_COLUMNS = 200
_MOST_ROWS = 1_000
_MOST_LETTERS = 28
_CELL_WIDTH, _CELL_HEIGHT, _GAP = 28, 14, 2
_LETTER, _LINE = 6, 16  # what a letter takes, in pixels
_MARGIN = 20
_BACKGROUND, _INK, _NONE = "#ffffff", "#222222", "#eeeeee"
_STEPS = 64
_STOPS = ((255, 245, 235), (253, 190, 133), (241, 105, 19), (166, 54, 3), (80, 20, 0))


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Shares from 0 to 1 by (row, column); `others` are the cells of no layer."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: dict[tuple[int, int], SegmentChange]
    others: Sequence[SegmentChange]

    @property
    def most(self) -> float:
        """The largest share, which has the darkest colour."""
        changes = [*self.cells.values(), *self.others]
        return max((change.delta_percent / 100 for change in changes), default=0.0)


def heat_map(changes: Iterable[SegmentChange], title: str) -> HeatMap:
    """Sort tensors into layers and kinds. Raises InvalidArgument when there are more than a picture can show."""
    layers: dict[int, dict[str, SegmentChange]] = {}
    others: list[SegmentChange] = []
    for change in changes:
        found = _LAYER.fullmatch(change.name)
        if found and change.kind == SegmentKind.TENSOR:
            layers.setdefault(int(found[1]), {})[found[2].removesuffix(".weight")] = change
        elif change.kind == SegmentKind.TENSOR:
            others.append(change)
    columns = list(dict.fromkeys(kind for kinds in layers.values() for kind in kinds))
    _check_size(len(layers), max(len(columns), len(others)))
    cells = {
        (row, columns.index(kind)): change
        for row, (_, kinds) in enumerate(sorted(layers.items()))
        for kind, change in kinds.items()
    }
    return HeatMap(title, [f"blk.{layer}" for layer in sorted(layers)], columns, cells, others)


def _check_size(rows: int, columns: int) -> None:
    if rows > _MOST_ROWS or columns > _MOST_COLUMNS or rows * columns > _MOST_CELLS:
        raise InvalidArgument(
            f"{rows:,} layers of {columns:,} kinds are too many for a picture", hint="use the table, or --json"
        )


def draw(picture: HeatMap, path: Path) -> None:
    """Write the picture whole. Raises InvalidArgument for an ending that is neither .svg nor .png, OSError."""
    writers = {".svg": svg_of, ".png": png_of}
    write = writers.get(path.suffix.lower())
    if write is None:
        raise InvalidArgument(f"no picture can be written as {path.name}", hint="name FILE.svg or FILE.png")
    data = write(_scene(picture))
    with appearing(path) as descriptor:
        write_all(descriptor, data, 0)


def _scene(picture: HeatMap) -> Scene:
    left = _MARGIN + _LETTER * max([_widest(picture.rows), len("no layer")]) + 8
    top = _MARGIN + 3 * _LINE + _LETTER * _widest(picture.columns) + 8
    bottom = top + len(picture.rows) * (_CELL_HEIGHT + _GAP)
    others_top = bottom + 24 + _LETTER * _widest([_other(change) for change in picture.others]) + 8
    legend_top = (others_top + _CELL_HEIGHT if picture.others else bottom) + 30
    columns = max(len(picture.columns), len(picture.others))
    width = max(left + columns * (_CELL_WIDTH + _GAP), _MARGIN + _LETTER * len(picture.title), 420) + _MARGIN
    shapes: list[Rectangle | Words] = [
        Words(_MARGIN, _MARGIN + 10, picture.title, _INK),
        Words(_MARGIN, _MARGIN + 10 + _LINE, "delta bytes of each tensor's bytes", _INK),
    ]
    for row, name in enumerate(picture.rows):
        shapes.append(Words(_MARGIN, top + row * (_CELL_HEIGHT + _GAP) + 11, name, _INK))
    for column, name in enumerate(picture.columns):
        shapes.append(Words(_across(left, column) + 18, top - 6, _short(name), _INK, upright=True))
    for (row, column), change in picture.cells.items():
        place = _across(left, column), top + row * (_CELL_HEIGHT + _GAP)
        shapes.append(_cell(*place, change, picture.most))
    for column, change in enumerate(picture.others):
        shapes.append(Words(_across(left, column) + 18, others_top - 6, _short(_other(change)), _INK, upright=True))
        shapes.append(_cell(_across(left, column), others_top, change, picture.most))
    if picture.others:
        shapes.append(Words(_MARGIN, others_top + 11, "no layer", _INK))
    shapes += _legend(legend_top, picture.most)
    return Scene(width, legend_top + 50, _BACKGROUND, shapes)


def _across(left: int, column: int) -> int:
    return left + column * (_CELL_WIDTH + _GAP)


def _other(change: SegmentChange) -> str:
    return change.name.removesuffix(".weight")


def _widest(names: Iterable[str]) -> int:
    return max((len(_short(name)) for name in names), default=0)


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 2]}.."


def _cell(x: int, y: int, change: SegmentChange, most: float) -> Rectangle:
    told = f"{change.name}: {change.delta_bytes:,} of {change.bytes:,} bytes ({change.delta_percent:.2f} %)"
    return Rectangle(x, y, _CELL_WIDTH, _CELL_HEIGHT, colour(change.delta_percent / 100, most), told)


def _legend(top: int, most: float) -> list[Rectangle | Words]:
    shapes: list[Rectangle | Words] = [
        Rectangle(_MARGIN, top, 20, 12, _NONE),
        Words(_MARGIN + 26, top + 10, "as it was", _INK),
    ]
    start, steps, step = _MARGIN + 110, 50, 4
    shapes += [
        Rectangle(start + number * step, top, step, 12, colour(max(number, 1e-9) / (steps - 1), 1.0))
        for number in range(steps)
    ]
    shapes.append(Words(start, top + 26, "0 %", _INK))
    shapes.append(Words(start + steps * step - 20, top + 26, f"{100 * most:.2f} %", _INK))
    return shapes


def colour(share: float, most: float) -> str:
    """#rrggbb for a share; grey for none, and darkest for the largest."""
    if share <= 0 or most <= 0:
        return _NONE
    step = max(1, round(min(1.0, share / most) * _STEPS))  # few colours, so that a picture can have a palette
    position = step / _STEPS * (len(_STOPS) - 1)
    lower = min(int(position), len(_STOPS) - 2)
    parts = zip(_STOPS[lower], _STOPS[lower + 1], strict=True)
    return "#" + "".join(f"{round(one + (other - one) * (position - lower)):02x}" for one, other in parts)
