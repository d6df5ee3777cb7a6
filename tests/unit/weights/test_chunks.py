"""Chunks are at most 4 MiB, whole quantisation blocks, and together their segment."""

import pytest

from deltaic.weights.chunks import MAX_CHUNK_BYTES, chunk_bytes, split
from deltaic.weights.ggml_types import BY_NAME
from deltaic.weights.layout import LayoutSegment, SegmentKind


def segment(length: int, ggml_type: str = "", offset: int = 0) -> LayoutSegment:
    kind = SegmentKind.TENSOR if ggml_type else SegmentKind.HEADER
    return LayoutSegment(kind, "s", ggml_type, (), offset, length)


@pytest.mark.parametrize("ggml_type", ["", *BY_NAME])
def test_a_chunk_is_the_most_whole_blocks_that_fit(ggml_type):
    block = BY_NAME[ggml_type].block_bytes if ggml_type else 1
    assert chunk_bytes(ggml_type) % block == 0
    assert MAX_CHUNK_BYTES - block < chunk_bytes(ggml_type) <= MAX_CHUNK_BYTES


@pytest.mark.parametrize(("length", "count"), [(1, 1), (MAX_CHUNK_BYTES, 1), (MAX_CHUNK_BYTES + 1, 2)])
def test_a_segment_has_as_few_chunks_as_possible(length, count):
    assert len(list(split(segment(length)))) == count


def test_a_tensor_is_cut_between_blocks():
    first, second = split(segment(34 * 200_000, "Q8_0", offset=64))
    assert (first.offset, first.length % 34) == (64, 0)
    assert second.offset == first.offset + first.length
    assert first.length + second.length == 34 * 200_000
