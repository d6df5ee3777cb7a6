"""A file of a revision as its manifest describes it, and the rules that make such a description believable.

The description comes over a network. These rules are checked before anybody allocates, reads or writes by it:

- the name is plain: no folder, printable, not hidden, at most 255 bytes;
- segments are contiguous from 0 to the size of the file, each with at least one byte;
- header segments come first, only tensors have a type and a shape, no tensor name appears twice;
- the chunks of a segment have 1 byte to 4 MiB each and together exactly its bytes;
- one SHA-256 always comes with one size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.gguf_vet import MAX_DIMENSIONS, MAX_KEY_BYTES
from deltaic.weights.layout import SegmentKind

MAX_FILE_BYTES = 4 * 1024**4
MAX_FILE_NAME_BYTES = 255

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_IN_FILE_NAMES = frozenset('/\\:*?"<>|')


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a file with one meaning, and its chunks. `shape` innermost first; offset and length in bytes."""

    kind: SegmentKind
    name: str
    ggml_type: str
    shape: tuple[int, ...]
    offset: int
    length: int
    chunks: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a revision: its segments, in order, are its bytes."""

    name: str
    digest: Digest
    architecture: str
    segments: tuple[Segment, ...]


def check_file(file: ModelFile) -> None:
    """Raises BadManifest unless the file obeys every rule above."""
    check_file_name(file.name)
    if not _WORD.fullmatch(file.architecture):
        raise BadManifest(f"the architecture is not a plain word: {file.architecture[:80]!r}")
    if not 1 <= file.digest.size <= MAX_FILE_BYTES:
        raise BadManifest(f"a file of {file.digest.size:,} bytes; 1 to {MAX_FILE_BYTES:,} are possible")
    end = 0
    for segment in file.segments:
        _check_segment(segment, end)
        end += segment.length
    if end != file.digest.size:
        raise BadManifest(f"the segments end at {end:,} but the file has {file.digest.size:,} bytes")
    _check_order(file.segments)
    _check_sizes_agree(file.segments)


def check_file_name(name: str) -> None:
    """Raises BadManifest unless `name` is a plain file name on every system, without any folder."""
    if not 1 <= len(name.encode(errors="replace")) <= MAX_FILE_NAME_BYTES:
        raise BadManifest(
            f"a file name of {len(name)} characters", hint=f"1 to {MAX_FILE_NAME_BYTES} bytes are possible"
        )
    if not name.isprintable() or name[0] in ".- " or name[-1] in ". " or _NOT_IN_FILE_NAMES & set(name):
        raise BadManifest(f"not a plain file name: {name!r}", hint="rename the file")


def _check_segment(segment: Segment, expected_offset: int) -> None:
    what = f"segment {segment.name[:80]!r} at {expected_offset:,}"
    if segment.offset != expected_offset:
        raise BadManifest(f"{what} says that it starts at {segment.offset:,}")
    if len(segment.name.encode()) > MAX_KEY_BYTES or not segment.name.isprintable():
        raise BadManifest(f"{what} has a name that is too long or not printable")
    if not segment.name and segment.kind is not SegmentKind.PADDING:
        raise BadManifest(f"{what} has no name")
    _check_shape(segment, what)
    if not segment.length or not all(1 <= chunk.size <= MAX_CHUNK_BYTES for chunk in segment.chunks):
        raise BadManifest(f"{what}: segments and chunks have at least 1 byte, chunks at most {MAX_CHUNK_BYTES:,}")
    if (total := sum(chunk.size for chunk in segment.chunks)) != segment.length:
        raise BadManifest(f"{what} has {segment.length:,} bytes but its chunks have {total:,}")


def _check_shape(segment: Segment, what: str) -> None:
    if segment.kind is not SegmentKind.TENSOR:
        if segment.ggml_type or segment.shape:
            raise BadManifest(f"{what} is no tensor but has a type or a shape")
        return
    if not _WORD.fullmatch(segment.ggml_type):
        raise BadManifest(f"{what} has the tensor type {segment.ggml_type[:80]!r}")
    if not 1 <= len(segment.shape) <= MAX_DIMENSIONS or not 1 <= math.prod(segment.shape) < 2**63:
        raise BadManifest(f"{what} has an impossible shape")


def _check_order(segments: Sequence[Segment]) -> None:
    headers = [segment.kind is SegmentKind.HEADER for segment in segments]
    if not headers[0] or sorted(headers, reverse=True) != headers:
        raise BadManifest("header segments come first, and only there")
    tensors = [segment.name for segment in segments if segment.kind is SegmentKind.TENSOR]
    if len(set(tensors)) != len(tensors):
        raise BadManifest("a tensor name appears twice")


def _check_sizes_agree(segments: Sequence[Segment]) -> None:
    chunks = {chunk for segment in segments for chunk in segment.chunks}
    if len({chunk.sha256 for chunk in chunks}) != len(chunks):
        raise BadManifest("one SHA-256 comes with two sizes")
