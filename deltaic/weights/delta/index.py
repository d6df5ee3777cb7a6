"""The index of a delta: which file it is from and to, its segments, its parts, and the packs that hold their payloads.

A delta may come from anybody, and its index is read before anything else of it. `parse` checks every rule of
docs/formats/delta.md before anybody allocates, reads or writes by it.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate

import numpy as np

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.delta import frames
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadDelta, BadDigest, UnknownDelta
from deltaic.weights.ggml_types import BY_NAME, BY_NUMBER
from deltaic.weights.gguf_vet import MAX_KEY_BYTES
from deltaic.weights.layout import SegmentKind

FORMAT_VERSION = 1
MAX_INDEX_BYTES = 32 << 20
MAX_PARTS = 1 << 18
MAX_FILE_BYTES = 4 << 40
MAX_PACK_BYTES = MAX_CHUNK_BYTES + (1 << 20)
MAX_SOURCE_BYTES = 64 << 20
"""Bytes of the source that one part may read; they are never in memory together."""
PAYLOAD_SLACK_BYTES = 1024
"""A payload has at most this many bytes more than the chunk that it makes."""

_MAGIC = b"DLTI"
_PREAMBLE = struct.Struct("<4sHHII")
_FIXED = struct.Struct("<32sQ32sQIII")
_KINDS = (SegmentKind.HEADER, SegmentKind.TENSOR, SegmentKind.PADDING)
_NO_TYPE = 255


class Codec(IntEnum):
    """How a part makes its chunk. Numbers are part of the format and are never used again for something else."""

    REUSE = 0
    """The bytes of the source, as they are; no payload."""
    RAW = 1
    """The payload, as it is."""
    ZSTD = 2
    """A zstd frame."""
    PREFIX = 3
    """A zstd frame that has the bytes of the source in front of it."""
    FLOAT = 4
    """Numbers of one floating-point type, from the same numbers before: `floats`."""
    BLOCK = 5
    """Quantisation blocks, from blocks of the same type before: `blocks`."""
    REQUANT = 6
    """Quantisation blocks or numbers, from the same weights in another type: `requantised`."""
    SPANS = 7
    """As BLOCK, but scales follow from minimums: `blocks`, `spans`."""


@dataclass(frozen=True, slots=True)
class DeltaSegment:
    """A segment of the target. Types are ggml names, "" where there is none; `row_elements` is the innermost dimension.

    `changed` counts bytes that are not those of the source.
    """

    kind: SegmentKind
    name: str
    ggml_type: str
    source_type: str
    row_elements: int
    changed: int
    parts: int


@dataclass(frozen=True, slots=True)
class Part:
    """What makes one chunk of the target; offsets and lengths in bytes.

    `pack` is the index of the pack that holds the payload, from `payload_offset`; -1 for a part without a payload.
    """

    codec: Codec
    segment: int
    target_offset: int
    target_length: int
    source_offset: int
    source_length: int
    pack: int
    payload_offset: int
    payload_length: int


@dataclass(frozen=True, slots=True)
class DeltaIndex:
    """A parsed index. `data` are its exact bytes, `digest` names them, and so the delta."""

    data: bytes = field(repr=False)
    digest: Digest = field(compare=False)
    source: Digest = field(compare=False)
    target: Digest = field(compare=False)
    segments: tuple[DeltaSegment, ...] = field(repr=False, compare=False)
    parts: tuple[Part, ...] = field(repr=False, compare=False)
    packs: tuple[Digest, ...] = field(repr=False, compare=False)
    starts: tuple[int, ...] = field(repr=False, compare=False)
    """Where in the target each segment begins, in bytes."""

    @property
    def size(self) -> int:
        """Bytes of the whole delta: index and packs."""
        return len(self.data) + sum(pack.size for pack in self.packs)

    def parts_by_pack(self) -> list[list[Part]]:
        """For each pack the parts whose payloads it holds, in order."""
        held: list[list[Part]] = [[] for _ in self.packs]
        for part in self.parts:
            if part.pack >= 0:
                held[part.pack].append(part)
        return held

    @classmethod
    def parse(cls, data: bytes) -> "DeltaIndex":
        """Read an index that anybody may have made. Raises BadDelta, UnknownDelta."""
        if len(data) < _PREAMBLE.size or index_length(data) != len(data):
            raise BadDelta("the index of the delta is cut, or more follows it")
        raw_bytes = _PREAMBLE.unpack_from(data)[4]
        if raw_bytes > MAX_INDEX_BYTES:
            raise BadDelta(f"an index of {raw_bytes:,} bytes; at most {MAX_INDEX_BYTES:,} are accepted")
        reader = _Reader(frames.expand(memoryview(data)[_PREAMBLE.size :], raw_bytes))
        try:
            return _read(data, reader)
        except BadDigest as error:
            raise BadDelta(f"a delta with a digest that is none: {error.message}") from None


def index_length(start: bytes) -> int:
    """How long an index is, preamble included, from its first 16 bytes. Raises BadDelta, UnknownDelta."""
    if len(start) < _PREAMBLE.size or start[: len(_MAGIC)] != _MAGIC:
        raise BadDelta("not a delta: it does not begin with DLTI", hint="make one with: deltaic diff A B -o FILE")
    _, version, _, packed, _ = _PREAMBLE.unpack_from(start)
    if version != FORMAT_VERSION:
        raise UnknownDelta(
            f"a delta of format version {version}; this program reads {FORMAT_VERSION}", hint="update Deltaic here"
        )
    length = _PREAMBLE.size + int(packed)
    if length > MAX_INDEX_BYTES:
        raise BadDelta(f"an index of {length:,} bytes; at most {MAX_INDEX_BYTES:,} are accepted")
    return length


PREAMBLE_BYTES = _PREAMBLE.size


def serialise(
    source: Digest, target: Digest, segments: Sequence[DeltaSegment], parts: Sequence[Part], packs: Sequence[Digest]
) -> bytes:
    """The bytes of an index; the same parts always give the same bytes."""
    fixed = _FIXED.pack(source.sha256, source.size, target.sha256, target.size, len(segments), len(parts), len(packs))
    names = [segment.name.encode() for segment in segments]
    in_pack = Counter(part.pack for part in parts)
    columns: list[tuple[str, list[int]]] = [
        ("<u4", [pack.size for pack in packs]),
        ("u1", [_KINDS.index(segment.kind) for segment in segments]),
        ("u1", [_type_number(segment.ggml_type) for segment in segments]),
        ("u1", [_type_number(segment.source_type) for segment in segments]),
        ("<u4", [segment.row_elements for segment in segments]),
        ("<u8", [segment.changed for segment in segments]),
        ("<u4", [segment.parts for segment in segments]),
        ("<u2", [len(name) for name in names]),
        ("u1", [part.codec for part in parts]),
        ("<u4", [part.target_length for part in parts]),
        ("<u8", [part.source_offset for part in parts]),
        ("<u4", [part.source_length for part in parts]),
        ("<u4", [part.payload_length for part in parts]),
        ("<u4", [in_pack[number] for number in range(len(packs))]),
    ]
    raw = b"".join(
        [
            fixed,
            *(pack.sha256 for pack in packs),
            *(np.array(values, kind).tobytes() for kind, values in columns),
            *names,
        ]
    )
    packed = frames.pack(raw, level=12)
    return _PREAMBLE.pack(_MAGIC, FORMAT_VERSION, 0, len(packed), len(raw)) + packed


class _Reader:
    """Takes columns from the front of some bytes, never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._position:
            raise BadDelta("the index of the delta ends too soon")
        self._position += count
        return self._data[self._position - count : self._position]

    def column(self, kind: str, count: int) -> list[int]:
        values: list[int] = np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind).tolist()
        return values

    def finish(self) -> None:
        if self._position != len(self._data):
            raise BadDelta("the index of the delta is followed by bytes that mean nothing")


def _read(data: bytes, reader: _Reader) -> DeltaIndex:
    fixed = _FIXED.unpack(reader.take(_FIXED.size))
    source, target = Digest(fixed[0], fixed[1]), Digest(fixed[2], fixed[3])
    n_segments, n_parts, n_packs = fixed[4:]
    if n_parts > MAX_PARTS or n_segments > n_parts or n_packs > n_parts:
        raise BadDelta(f"a delta of {n_segments:,} segments in {n_parts:,} parts and {n_packs:,} packs")
    if not (0 < source.size <= MAX_FILE_BYTES and 0 < target.size <= MAX_FILE_BYTES):
        raise BadDelta("a delta from or to a file of an impossible size")
    sums = [reader.take(32) for _ in range(n_packs)]
    packs = tuple(Digest(sum_, size) for sum_, size in zip(sums, reader.column("<u4", n_packs), strict=True))
    if any(not 0 < pack.size <= MAX_PACK_BYTES for pack in packs):
        raise BadDelta("a delta with a pack of an impossible size")
    segments = tuple(_read_segments(reader, n_segments))
    columns = [reader.column(kind, n_parts) for kind in ("u1", "<u4", "<u8", "<u4", "<u4")]
    in_pack = reader.column("<u4", n_packs)
    names = [reader.take(length) for length in (entry[1] for entry in segments)]
    reader.finish()
    named = tuple(_named(segment, name) for (segment, _), name in zip(segments, names, strict=True))
    parts = tuple(_place(columns, named, packs, in_pack, source.size, target.size))
    starts = {part.segment: part.target_offset for part in reversed(parts)}
    return DeltaIndex(
        bytes(data), Digest.of(data), source, target, named, parts, packs, tuple(starts[at] for at in range(len(named)))
    )


def _read_segments(reader: _Reader, count: int) -> Iterator[tuple[DeltaSegment, int]]:
    """Segments without their names, and the lengths of those."""
    kinds = ("u1", "u1", "u1", "<u4", "<u8", "<u4", "<u2")
    for kind, own, before, row, changed, parts, name in zip(
        *(reader.column(kind, count) for kind in kinds), strict=True
    ):
        if kind >= len(_KINDS) or parts < 1:
            raise BadDelta("a delta with a segment of an unknown kind, or without parts")
        yield DeltaSegment(_KINDS[kind], "", _type_name(own), _type_name(before), row, changed, parts), name


def _named(segment: DeltaSegment, raw: bytes) -> DeltaSegment:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise BadDelta("a delta with a segment whose name is not UTF-8") from None
    if len(raw) > MAX_KEY_BYTES or not name.isprintable():
        raise BadDelta("a delta with a segment whose name cannot be printed")
    return DeltaSegment(
        segment.kind,
        name,
        segment.ggml_type,
        segment.source_type,
        segment.row_elements,
        segment.changed,
        segment.parts,
    )


def _type_number(name: str) -> int:
    return BY_NAME[name].number if name else _NO_TYPE


def _type_name(number: int) -> str:
    if number == _NO_TYPE:
        return ""
    if number not in BY_NUMBER:
        raise UnknownDelta(f"a delta of tensors of the unknown type {number}", hint="update Deltaic here")
    return BY_NUMBER[number].name


def _place(
    columns: Sequence[Sequence[int]],
    segments: Sequence[DeltaSegment],
    packs: Sequence[Digest],
    in_pack: Sequence[int],
    source_size: int,
    target_size: int,
) -> Iterator[Part]:
    """The parts, each checked against the bounds of the files and of its pack. Raises BadDelta, UnknownDelta."""
    owners = (
        [number for number, segment in enumerate(segments) for _ in range(segment.parts)]
        if _few(segments, columns)
        else []
    )
    if len(owners) != len(columns[0]):
        raise BadDelta("the segments of the delta do not have the parts that they say")
    places = _payload_places(columns[0], columns[4], packs, in_pack)
    offsets = [0, *accumulate(columns[1])]
    if offsets[-1] != target_size:
        raise BadDelta(f"the parts of the delta make {offsets[-1]:,} bytes, the target has {target_size:,}")
    for number, (code, made, start, taken, paid) in enumerate(zip(*columns, strict=True)):
        codec = _codec(code)
        if not 1 <= made <= MAX_CHUNK_BYTES or paid > made + PAYLOAD_SLACK_BYTES:
            raise BadDelta(f"part {number} of the delta makes {made:,} bytes from {paid:,}, which cannot be")
        if start + taken > source_size or taken > MAX_SOURCE_BYTES:
            raise BadDelta(f"part {number} of the delta reads outside the source")
        if codec is not Codec.REQUANT and taken > MAX_CHUNK_BYTES:
            raise BadDelta(f"part {number} of the delta reads {taken:,} bytes for one chunk")
        if codec is Codec.REUSE and taken != made:
            raise BadDelta(f"part {number} of the delta reuses {taken:,} bytes as {made:,}")
        pack, within = next(places) if codec is not Codec.REUSE else (-1, 0)
        yield Part(codec, owners[number], offsets[number], made, start, taken, pack, within, paid)


def _few(segments: Sequence[DeltaSegment], columns: Sequence[Sequence[int]]) -> bool:
    return sum(segment.parts for segment in segments) == len(columns[0])


def _codec(code: int) -> Codec:
    try:
        return Codec(code)
    except ValueError:
        raise UnknownDelta(f"a delta with the unknown codec {code}", hint="update Deltaic here") from None


def _payload_places(
    codes: Sequence[int], lengths: Sequence[int], packs: Sequence[Digest], in_pack: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(pack, offset) of each payload; packs are filled in order and exactly. Raises BadDelta."""
    paid = [length for code, length in zip(codes, lengths, strict=True) if code != Codec.REUSE]
    if any(length for code, length in zip(codes, lengths, strict=True) if code == Codec.REUSE) or 0 in paid:
        raise BadDelta("a delta with a payload where none belongs, or none where one does")
    if sum(in_pack) != len(paid) or 0 in in_pack:
        raise BadDelta("the packs of the delta do not hold the payloads of its parts")
    places: list[tuple[int, int]] = []
    first = 0
    for number, (pack, count) in enumerate(zip(packs, in_pack, strict=True)):
        offsets = [0, *accumulate(paid[first : first + count])]
        if offsets[-1] != pack.size:
            raise BadDelta(f"pack {number} of the delta has not the size of its payloads")
        places += [(number, offset) for offset in offsets[:-1]]
        first += count
    return iter(places)
