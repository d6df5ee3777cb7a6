"""Manifests survive the trip through their bytes; tampered bytes never give one that does not add up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadManifest
from deltaic.weights.layout import SegmentKind
from deltaic.weights.manifest import Manifest, serialise
from deltaic.weights.model_file import ModelFile, Segment

NAMES = st.text("abcdefghijklmnopqrstuvwxyz._0123456789", min_size=1, max_size=20)
BLOBS = st.builds(Digest.of, st.binary(min_size=1, max_size=8))


@st.composite
def files(draw) -> ModelFile:
    """Any file that obeys the rules: header segments, then tensors and padding."""
    kinds = [SegmentKind.HEADER] * draw(st.integers(1, 4))
    kinds += draw(st.lists(st.sampled_from([SegmentKind.TENSOR, SegmentKind.PADDING]), max_size=8))
    segments, offset = [], 0
    for index, kind in enumerate(kinds):
        chunks = tuple(draw(st.lists(BLOBS, min_size=1, max_size=4)))
        length = sum(chunk.size for chunk in chunks)
        tensor = kind is SegmentKind.TENSOR
        name = "" if kind is SegmentKind.PADDING else f"{draw(NAMES)}{index}"
        segments.append(
            Segment(kind, name, "I8" if tensor else "", (length,) if tensor else (), offset, length, chunks)
        )
        offset += length
    digest = Digest(draw(st.binary(min_size=32, max_size=32)), offset)
    return ModelFile(f"m{draw(NAMES)}.gguf", digest, draw(st.sampled_from(["llama", "qwen2moe"])), tuple(segments))


def assert_it_adds_up(manifest: Manifest) -> None:
    assert [chunk.offset for chunk in manifest.chunks] == [0, *(chunk.end for chunk in manifest.chunks[:-1])]
    assert manifest.chunks[-1].end == manifest.size
    assert all(1 <= chunk.digest.size <= MAX_CHUNK_BYTES for chunk in manifest.chunks)
    assert sorted(offset for offsets in manifest.unique.values() for offset in offsets) == [
        chunk.offset for chunk in manifest.chunks
    ]
    assert "/" not in manifest.file_name
    assert manifest.file_name.isprintable()
    assert manifest.digest == Digest.of(manifest.data)


@given(files())
def test_what_is_serialised_is_read_back(file):
    manifest = Manifest.parse(serialise(file))
    assert manifest.file == file
    assert serialise(manifest.file) == manifest.data
    assert Manifest.parse(manifest.data) == manifest
    assert_it_adds_up(manifest)


@settings(max_examples=500)
@given(files(), st.data())
def test_bytes_that_were_tampered_with_are_refused_or_still_add_up(file, data):
    raw = bytearray(serialise(file))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        raw[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    try:
        manifest = Manifest.parse(bytes(raw))
    except BadManifest:
        return
    assert_it_adds_up(manifest)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(BadManifest):
        Manifest.parse(noise)


@given(files(), st.data())
def test_every_cut_is_refused(file, data):
    raw = serialise(file)
    with pytest.raises(BadManifest):
        Manifest.parse(raw[: data.draw(st.integers(0, len(raw) - 1))])
