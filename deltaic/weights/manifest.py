"""The manifest: what one revision of a model is made of, down to chunks of at most 4 MiB.

A manifest is one `deltaic.v1.Manifest` message. Its exact bytes are what is hashed: their digest is the revision, so a
manifest is kept and sent as the bytes that it came in and never serialised again. `docs/formats/manifest.md` describes
the format and every rule that `parse` enforces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from google.protobuf.message import DecodeError

from deltaic.v1 import content_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadDigest, BadManifest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest_wire import check_wire
from deltaic.weights.model_file import ModelFile, Segment, check_file

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 * 1024 * 1024

_KINDS = {
    content_pb2.Segment.KIND_HEADER: SegmentKind.HEADER,
    content_pb2.Segment.KIND_TENSOR: SegmentKind.TENSOR,
    content_pb2.Segment.KIND_PADDING: SegmentKind.PADDING,
}
_WIRE_KINDS = {kind: number for number, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk at one of its places in the file; `offset` in bytes from the start of the file."""

    digest: Digest
    offset: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the chunk."""
        return self.offset + self.digest.size


@dataclass(frozen=True, slots=True)
class Manifest:
    """A revision: its exact bytes and what they say. Two manifests are equal when their bytes are.

    `chunks` lists every chunk in file order, `unique` each digest once, in order of first appearance, with all the
    offsets at which its bytes lie.
    """

    data: bytes = field(repr=False)
    digest: Digest = field(compare=False)
    file: ModelFile = field(repr=False, compare=False)
    chunks: tuple[Chunk, ...] = field(repr=False, compare=False)
    unique: Mapping[Digest, tuple[int, ...]] = field(repr=False, compare=False)

    @classmethod
    def build(cls, path: Path, *, on_progress: Callable[[int], None] | None = None) -> "Manifest":
        """Vet, lay out and hash a GGUF file in one streaming pass with one chunk in memory.

        `on_progress` gets the number of bytes hashed so far, after every chunk; it never decreases and ends at the
        size of the file. The same bytes under the same file name always give the same manifest.
        Raises NotGGUF, Truncated, BadLayout, BadManifest (a file name that is not plain), OSError.
        """
        from deltaic.weights.manifest_build import describe  # the gguf package and numpy: only where files are built

        return cls.parse(serialise(describe(path, on_progress)))

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """Read a manifest that anybody may have made. Raises BadManifest.

        That it is the manifest of the revision wanted is the caller's check: compare `digest`, or `verify` first.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise BadManifest(f"a manifest of {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are accepted")
        check_wire(data)
        try:
            message = content_pb2.Manifest.FromString(data)
        except DecodeError:
            raise BadManifest("these bytes are not a manifest") from None
        file = _read_message(message)
        check_file(file)
        chunks = tuple(_place(file))
        return cls(bytes(data), Digest.of(data), file, chunks, MappingProxyType(_offsets(chunks)))

    @property
    def revision(self) -> str:
        """`sha256:HEX` of the exact bytes: the last part of a revision's name."""
        return str(self.digest)

    @property
    def file_name(self) -> str:
        """The plain name of the file."""
        return self.file.name

    @property
    def file_digest(self) -> Digest:
        """Digest of the whole file."""
        return self.file.digest

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.file.digest.size


def serialise(file: ModelFile) -> bytes:
    """The bytes of the manifest of one file; the same file always gives the same bytes."""
    segments = [
        content_pb2.Segment(
            kind=_WIRE_KINDS[segment.kind],
            name=segment.name,
            ggml_type=segment.ggml_type,
            shape=segment.shape,
            offset=segment.offset,
            length=segment.length,
            chunks=[chunk.to_proto() for chunk in segment.chunks],
        )
        for segment in file.segments
    ]
    described = content_pb2.ModelFile(
        name=file.name, digest=file.digest.to_proto(), architecture=file.architecture, segments=segments
    )
    message = content_pb2.Manifest(format_version=FORMAT_VERSION, files=[described])
    return message.SerializeToString(deterministic=True)


def _read_message(message: content_pb2.Manifest) -> ModelFile:
    if message.format_version != FORMAT_VERSION:
        raise BadManifest(
            f"a manifest of format version {message.format_version}; this program reads {FORMAT_VERSION}",
            hint="update Deltaic on this node",
        )
    if len(message.files) != 1:
        raise BadManifest(f"a manifest of {len(message.files)} files; exactly one is possible today")
    file = message.files[0]
    segments = tuple(_read_segment(segment) for segment in file.segments)
    return ModelFile(file.name, _read_digest(file.digest), file.architecture, segments)


def _read_segment(message: content_pb2.Segment) -> Segment:
    if message.kind not in _KINDS:
        raise BadManifest(f"a segment of the unknown kind {message.kind}")
    return Segment(
        _KINDS[message.kind],
        message.name,
        message.ggml_type,
        tuple(message.shape),
        message.offset,
        message.length,
        tuple(_read_digest(chunk) for chunk in message.chunks),
    )


def _read_digest(message: content_pb2.Digest) -> Digest:
    try:
        return Digest.from_proto(message)
    except BadDigest as error:
        raise BadManifest(f"a manifest with a digest that is none: {error.message}") from None


def _place(file: ModelFile) -> list[Chunk]:
    chunks, offset = [], 0
    for segment in file.segments:
        for digest in segment.chunks:
            chunks.append(Chunk(digest, offset))
            offset += digest.size
    return chunks


def _offsets(chunks: tuple[Chunk, ...]) -> dict[Digest, tuple[int, ...]]:
    places: dict[Digest, list[int]] = {}
    for chunk in chunks:
        places.setdefault(chunk.digest, []).append(chunk.offset)
    return {digest: tuple(offsets) for digest, offsets in places.items()}
