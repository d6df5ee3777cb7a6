"""What tests of staging share: the growing file, half of one, and models made of given chunks."""

from pathlib import Path

from deltaic.store.model_files import ModelFiles
from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest, serialise
from deltaic.weights.model_file import ModelFile, Segment


def part_of(files: ModelFiles, model) -> Path:
    return files.folder / f"{model.hex}.part"


def leave_half(files: ModelFiles, model) -> set[Digest]:
    """Stage every other chunk, then let go."""
    with files.stage(model.manifest) as staging:
        wanted = staging.missing[::2]
        for chunk in wanted:
            staging.write(chunk, model.bytes_of(chunk.digest))
    return {chunk.digest for chunk in wanted}


def made_of(like: Manifest, pieces: list[bytes]) -> tuple[Manifest, bytes]:
    """A manifest of one padding segment a piece: any content at all, in the shape of a model's file."""
    segments, offset = [], 0
    for index, piece in enumerate(pieces):
        kind = SegmentKind.PADDING if index else SegmentKind.HEADER
        segments.append(Segment(kind, f"piece {index}", "", (), offset, len(piece), (Digest.of(piece),)))
        offset += len(piece)
    content = b"".join(pieces)
    file = ModelFile(like.file_name, Digest.of(content), "llama", tuple(segments))
    return Manifest.parse(serialise(file)), content
