"""What a picture is made of, whatever it is written as: rectangles and words, in pixels from the upper left corner."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A filled rectangle; `told` is what a reader sees who points at it, where the format can do that."""

    x: int
    y: int
    width: int
    height: int
    colour: str
    told: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """One line whose letters stand on `y` and begin at `x`; upright ones go up from there."""

    x: int
    y: int
    text: str
    colour: str
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture; colours are #rrggbb."""

    width: int
    height: int
    background: str
    shapes: Sequence[Rectangle | Words]
