"""What a laid-out model file is: segments, contiguous from its first byte to its last."""

from dataclasses import dataclass
from enum import StrEnum


class SegmentKind(StrEnum):
    """What the bytes of a segment are."""

    HEADER = "header"
    TENSOR = "tensor"
    PADDING = "padding"


@dataclass(frozen=True, slots=True)
class LayoutSegment:
    """A part of a file with one meaning. `shape` is innermost first, offset and length are in bytes."""

    kind: SegmentKind
    name: str
    ggml_type: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the segment."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Layout:
    """The segments of a file, contiguous from 0 to `size` bytes."""

    architecture: str
    size: int
    segments: tuple[LayoutSegment, ...]
