"""Refuses manifest bytes that would become far bigger in memory than they are on the wire.

Two bytes of protobuf can name an empty segment, which takes a hundred bytes once parsed: 64 MiB of them become more
than 3 GB. A real segment has a chunk and a real chunk has a SHA-256, so this walk over the wire format (protobuf
encoding: varints, length-delimited fields) looks at the lengths alone, before the parser allocates anything. What it
lets through takes a small multiple of its own size. It does not judge content: `Manifest.parse` does, afterwards.
"""

from collections.abc import Iterator

from deltaic.weights.errors import BadManifest
from deltaic.weights.gguf_vet import MAX_DIMENSIONS

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FILES, _SEGMENTS, _SHAPE, _CHUNKS = 2, 4, 4, 7  # field numbers in Manifest, ModelFile, Segment and Segment
_MIN_CHUNK = 2 + 32 + 2  # a SHA-256 and a size, each with its tag
_MIN_SEGMENT = 2 + _MIN_CHUNK + 2 + 2  # one chunk, a kind and a length
_MAX_VARINT = 10


def check_wire(data: bytes) -> None:
    """Raises BadManifest for bytes that are not protobuf, or that hold hollow segments or chunks."""
    view = memoryview(data)
    files = 0
    for number, start, end in _fields(view, 0, len(view)):
        if number == _FILES:
            files += 1
            if files > 1:
                raise BadManifest("a manifest of several files; exactly one is possible today")
            _check_file(view, start, end)


def _check_file(view: memoryview, start: int, end: int) -> None:
    for number, inner, inner_end in _fields(view, start, end):
        if number == _SEGMENTS:
            _require(inner_end - inner >= _MIN_SEGMENT, "a segment without content")
            _check_segment(view, inner, inner_end)


def _check_segment(view: memoryview, start: int, end: int) -> None:
    dimensions = 0
    for number, inner, inner_end in _fields(view, start, end):
        if number == _CHUNKS:
            _require(inner_end - inner >= _MIN_CHUNK, "a chunk without a digest")
        elif number == _SHAPE:
            dimensions += inner_end - inner
            _require(dimensions <= MAX_DIMENSIONS * _MAX_VARINT, "a tensor with too many dimensions")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadManifest(f"a manifest with {otherwise}")


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: number, and where its content starts and ends."""
    position = start
    while position < end:
        tag, position = _varint(view, position, end)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, position = _varint(view, position, end)
            content_end = position + length
        elif wire_type == _VARINT:
            _, content_end = _varint(view, position, end)
        elif wire_type in (_FIXED32, _FIXED64):
            content_end = position + (4 if wire_type == _FIXED32 else 8)
        else:
            raise BadManifest("these bytes are not a manifest")
        if content_end > end:
            raise BadManifest("these bytes are not a manifest: they end too soon")
        yield tag >> 3, position, content_end
        position = content_end


def _varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    """A varint and the position after it."""
    value = 0
    for index in range(_MAX_VARINT):
        if position >= end:
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position
    raise BadManifest("these bytes are not a manifest: a number does not end")
