"""What a delta says of each tensor and of each codec, as numbers that tables, JSON and pictures show."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deltaic.weights.delta.index import Codec, DeltaIndex, DeltaSegment, Part


@dataclass(frozen=True, slots=True)
class SegmentChange:
    """What happens to one segment. Sizes in bytes; `source_type` is "" unless it differs from `type`.

    `changed_percent` is the share of bytes that are not as they were.
    """

    kind: str
    name: str
    type: str
    source_type: str
    bytes: int
    changed_percent: float
    delta_bytes: int
    delta_percent: float
    codecs: list[str]


@dataclass(frozen=True, slots=True)
class CodecShare:
    """What one codec does, in bytes: of the target, and of the delta."""

    codec: str
    chunks: int
    target_bytes: int
    delta_bytes: int


def segment_changes(index: DeltaIndex) -> list[SegmentChange]:
    """One for each segment of the target, in file order."""
    found: list[SegmentChange] = []
    start = 0
    for segment in index.segments:
        parts = index.parts[start : start + segment.parts]
        start += segment.parts
        found.append(_change(segment, parts))
    return found


def codec_shares(index: DeltaIndex) -> list[CodecShare]:
    """One for each codec that the delta uses, by number."""
    used = sorted({part.codec for part in index.parts})
    return [_share(codec, [part for part in index.parts if part.codec is codec]) for codec in used]


def codec_word(codec: Codec) -> str:
    return codec.name.lower()


def _change(segment: DeltaSegment, parts: Sequence[Part]) -> SegmentChange:
    size, paid = sum(part.target_length for part in parts), _paid(parts)
    codecs = sorted({part.codec for part in parts})
    source_type = segment.source_type if segment.source_type != segment.ggml_type else ""
    return SegmentChange(
        str(segment.kind),
        segment.name,
        segment.ggml_type,
        source_type,
        size,
        _percent(min(segment.changed, size), size),
        paid,
        _percent(paid, size),
        [codec_word(codec) for codec in codecs],
    )


def _share(codec: Codec, parts: Sequence[Part]) -> CodecShare:
    return CodecShare(codec_word(codec), len(parts), sum(part.target_length for part in parts), _paid(parts))


def _paid(parts: Iterable[Part]) -> int:
    return sum(part.payload_length for part in parts)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 4) if whole else 0.0
