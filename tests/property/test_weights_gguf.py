"""Whatever is done to a file, the answer is a layout or an error of our own, quickly and in little memory."""

import io
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaic.weights.chunks import MAX_CHUNK_BYTES, split
from deltaic.weights.errors import BadModelFile
from deltaic.weights.ggml_types import BY_NAME
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.gguf_vet import survey
from deltaic.weights.layout import LayoutSegment, SegmentKind

INTERESTING = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
WIDE = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def tiny_bytes(tiny_gguf):
    return tiny_gguf().read_bytes()


@pytest.fixture(scope="module")
def header_bytes(tiny_gguf):
    return next(one.offset for one in read_layout(tiny_gguf()).segments if one.kind is SegmentKind.TENSOR)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "model.gguf"


def read_or_refuse(raw: bytes, path) -> None:
    """Read the layout as a publisher would; only our own refusal may come out."""
    path.write_bytes(raw)
    try:
        layout = read_layout(path)
    except BadModelFile:
        return
    assert [one.offset for one in layout.segments] == [0, *(one.end for one in layout.segments[:-1])]
    assert layout.segments[-1].end == layout.size == len(raw)


def mutate(raw: bytes, changes) -> bytes:
    mutated = bytearray(raw)
    for offset, value in changes:
        patch = value.to_bytes(8, "little") if value > 255 else bytes([value])
        mutated[offset : offset + len(patch)] = patch
    return bytes(mutated[: len(raw)])


@settings(max_examples=400, deadline=2000)
@given(st.data())
def test_changed_bytes_in_the_header_give_a_layout_or_a_refusal(tiny_bytes, header_bytes, scratch, data):
    places = st.tuples(st.integers(0, header_bytes - 1), INTERESTING | WIDE)
    read_or_refuse(mutate(tiny_bytes, data.draw(st.lists(places, min_size=1, max_size=4))), scratch)


@settings(max_examples=150, deadline=2000)
@given(st.data())
def test_cut_and_spliced_files_give_a_layout_or_a_refusal(tiny_bytes, header_bytes, scratch, data):
    start = data.draw(st.integers(0, header_bytes))
    end = data.draw(st.integers(start, header_bytes))
    middle = data.draw(st.binary(max_size=64))
    read_or_refuse(tiny_bytes[:start] + middle + tiny_bytes[end:], scratch)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_noise_after_the_magic_gives_a_refusal(noise):
    raw = b"GGUF\x03\x00\x00\x00" + noise
    with pytest.raises(BadModelFile):
        survey(io.BytesIO(raw), len(raw))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_declared_length_makes_vetting_allocate(tiny_bytes, header_bytes, data):
    offset = data.draw(st.integers(0, header_bytes - 8))
    raw = mutate(tiny_bytes, [(offset, data.draw(WIDE))])
    tracemalloc.start()
    try:
        survey(io.BytesIO(raw), len(raw))
    except BadModelFile:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1024 * 1024


@given(
    st.sampled_from(["", *BY_NAME]),
    st.integers(1, 3 * MAX_CHUNK_BYTES),
    st.integers(0, 2**40),
)
def test_chunks_are_exactly_their_segment(ggml_type, length, offset):
    block = BY_NAME[ggml_type].block_bytes if ggml_type else 1
    segment = LayoutSegment(SegmentKind.TENSOR, "t", ggml_type, (), offset, -(-length // block) * block)
    extents = list(split(segment))
    assert extents[0].offset == segment.offset
    assert [one.offset + one.length for one in extents] == [*(one.offset for one in extents[1:]), segment.end]
    assert all(1 <= one.length <= MAX_CHUNK_BYTES and one.length % block == 0 for one in extents)


@given(st.binary(min_size=1, max_size=500), st.sampled_from(["", "Q8_0", "F32"]))
def test_split_then_join_is_identity(raw, ggml_type):
    block = BY_NAME[ggml_type].block_bytes if ggml_type else 1
    data = raw * block
    segment = LayoutSegment(SegmentKind.TENSOR, "t", ggml_type, (), 0, len(data))
    assert b"".join(data[one.offset : one.offset + one.length] for one in split(segment)) == data
