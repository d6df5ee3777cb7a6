"""Whatever happens to a growing file, opening it again finds exactly the chunks whose bytes are right."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest, serialise
from deltaic.weights.model_file import ModelFile, Segment

# Pieces below, at and above the blocks of a file system, some of them all zeros, some of them alike.
_PIECE = st.tuples(st.sampled_from([1, 100, 4095, 4096, 4097, 9000, 70000]), st.integers(0, 3)).map(
    lambda drawn: bytes([drawn[1]]) * drawn[0]
)
_PIECES = st.lists(_PIECE, min_size=1, max_size=12)
_WHERE = st.floats(0, 1)
_HARM = st.one_of(
    st.tuples(st.just("write"), _WHERE),
    st.tuples(st.just("flip"), _WHERE),
    st.tuples(st.just("cut"), _WHERE),
    st.tuples(st.just("grow"), _WHERE),
    st.tuples(st.just("let go"), _WHERE),
)


def _model_of(pieces: list[bytes]) -> tuple[Manifest, bytes]:
    segments, offset = [], 0
    for index, piece in enumerate(pieces):
        kind = SegmentKind.PADDING if index else SegmentKind.HEADER
        segments.append(Segment(kind, f"piece {index}", "", (), offset, len(piece), (Digest.of(piece),)))
        offset += len(piece)
    content = b"".join(pieces)
    return Manifest.parse(serialise(ModelFile("m.gguf", Digest.of(content), "x", tuple(segments)))), content


def _write_one(staging: Staging, content: bytes, where: float) -> None:
    if missing := staging.missing:
        chunk = missing[int(where * (len(missing) - 1))]
        staging.write(chunk, content[chunk.offset : chunk.end])


def _harm(part: Path, kind: str, where: float) -> None:
    size = part.stat().st_size
    if kind == "cut":
        os.truncate(part, int(where * size))
    elif kind == "grow":
        os.truncate(part, size + int(where * 10_000))
    elif kind == "flip" and size:
        with part.open("r+b") as file:
            file.seek(int(where * (size - 1)))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x80]))


@settings(max_examples=60, deadline=None)
@given(pieces=_PIECES, events=st.lists(_HARM, max_size=12))
def test_a_growing_file_is_its_own_journal(pieces, events):
    manifest, content = _model_of(pieces)
    with tempfile.TemporaryDirectory() as folder:
        files = ModelFiles(Path(folder))
        part = Path(folder) / f"{manifest.digest.hex}.part"
        for kind, where in [("let go", 0.0), *events]:
            if kind == "write":
                with files.stage(manifest) as staging:
                    _write_one(staging, content, where)
            else:
                files.stage(manifest).close()
                _harm(part, kind, where)
            right = _digests_in(part, manifest)
            with files.stage(manifest) as staging:
                assert {chunk.digest for chunk in staging.missing} == set(manifest.unique) - right
        with files.stage(manifest) as staging:
            for chunk in staging.missing:
                staging.write(chunk, content[chunk.offset : chunk.end])
            assert staging.missing_bytes == 0
            assert staging.verified_bytes == len(content)
            assert staging.commit().read_bytes() == content


def _digests_in(part: Path, manifest: Manifest) -> set[Digest]:
    """The digests that the file, at its full size, has in at least one of their places."""
    content = part.read_bytes()[: manifest.size].ljust(manifest.size, b"\0")
    return {chunk.digest for chunk in manifest.chunks if chunk.digest.matches(content[chunk.offset : chunk.end])}


@settings(max_examples=40, deadline=None)
@given(first=_PIECES, second=_PIECES)
def test_reuse_leaves_exactly_what_the_other_file_lacks(first, second):
    (old, old_content), (new, new_content) = _model_of(first), _model_of(second)
    with tempfile.TemporaryDirectory() as folder:
        files = ModelFiles(Path(folder))
        with files.stage(old) as staging:
            for chunk in staging.missing:
                staging.write(chunk, old_content[chunk.offset : chunk.end])
            staging.commit()
        if new.digest == old.digest:
            return
        with files.stage(new) as staging:
            staging.reuse()
            lacking = {digest for digest in new.unique if digest not in old.unique}
            assert {chunk.digest for chunk in staging.missing} == {
                digest for digest in lacking if digest != Digest.of(bytes(digest.size))
            }
            for chunk in staging.missing:
                staging.write(chunk, new_content[chunk.offset : chunk.end])
            assert staging.commit().read_bytes() == new_content


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_same_file_of_zeros_is_whole_at_once(tmp_path, count):
    manifest, content = _model_of([bytes(5000)] * count)
    with ModelFiles(tmp_path).stage(manifest) as staging:
        assert staging.missing == []
        assert staging.commit().read_bytes() == content
