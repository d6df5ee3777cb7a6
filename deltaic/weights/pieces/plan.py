"""Where a file is cut: at its tensors, at its layers, or every so many bytes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deltaic.errors import InvalidArgument
from deltaic.weights.layout import LayoutSegment, SegmentKind
from deltaic.weights.pieces.index import MAX_PIECES

HEADER = "header"

_LAYER = re.compile(r"blk\.[0-9]+(?=\.)")
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")
_MOST_OF_A_NAME = 120


class By(StrEnum):
    """How a file is cut."""

    TENSOR = "tensor"
    LAYER = "layer"
    SIZE = "size"


@dataclass(frozen=True, slots=True)
class Cut:
    """One piece to be made: its name, and where it lies in the file, in bytes."""

    name: str
    offset: int
    length: int


def cuts_of(file: Path, by: By, size: int) -> list[Cut]:
    """The pieces of a file, in order, together all of it; `size` (bytes) counts when cutting by size.

    Raises InvalidArgument (an empty file, too many pieces), and for tensor and layer what `read_layout` raises.
    """
    total = file.stat().st_size
    if not total:
        raise InvalidArgument(f"{file} is empty", hint="there is nothing to split")
    if by is not By.SIZE:
        from deltaic.weights.gguf_layout import read_layout  # numpy and gguf: only where they are needed

        return by_segments(read_layout(file).segments, by)
    if size < 1 or -(-total // size) > MAX_PIECES:
        raise InvalidArgument(
            f"pieces of {size:,} bytes of a file of {total:,} would be more than {MAX_PIECES:,}",
            hint="choose larger pieces, for example --size 1GiB",
        )
    starts = range(0, total, size)
    return _numbered([(file.suffix.lstrip(".") or "part", start, min(size, total - start)) for start in starts])


def by_segments(segments: Sequence[LayoutSegment], by: By) -> list[Cut]:
    """One piece for each run of segments that belong together; padding goes with what lies before it."""
    runs: list[tuple[str, int, int]] = []
    for segment in segments:
        owner = _owner(segment, by)
        if runs and owner in ("", runs[-1][0]):
            runs[-1] = (runs[-1][0], runs[-1][1], segment.end - runs[-1][1])
        else:
            runs.append((owner or HEADER, segment.offset, segment.length))
    if len(runs) > MAX_PIECES:
        raise InvalidArgument(f"this file has {len(runs):,} pieces; at most {MAX_PIECES:,}", hint="use --by size")
    return _numbered(runs)


def _owner(segment: LayoutSegment, by: By) -> str:
    """What a segment belongs to; "" for padding."""
    if segment.kind is SegmentKind.HEADER:
        return HEADER
    if by is By.LAYER and (layer := _LAYER.match(segment.name)):
        return layer[0]
    return segment.name


def _numbered(runs: Sequence[tuple[str, int, int]]) -> list[Cut]:
    return [Cut(name, offset, length) for name, (_, offset, length) in zip(_names(runs), runs, strict=True)]


def _names(runs: Sequence[tuple[str, int, int]]) -> Iterator[str]:
    """Names that sort as the pieces lie; the number keeps apart what the rest does not."""
    digits = max(4, len(str(len(runs) - 1)))
    for number, (owner, _, _) in enumerate(runs):
        yield f"{number:0{digits}d}-{_FOREIGN.sub('_', owner)[:_MOST_OF_A_NAME]}.piece"
