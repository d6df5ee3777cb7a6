"""Vetting refuses every file that lies, with one clear line, and lets well-formed files through."""

import io
import struct

import pytest

from deltaic.weights.errors import BadLayout, NotGGUF, Truncated
from deltaic.weights.ggml_types import BY_NUMBER
from deltaic.weights.gguf_vet import survey, vet

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
UINT8, UINT32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name=b"t", shape=(32,), kind=F32, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ONE_TENSOR = tensor()
ARCHITECTURE = key(b"general.architecture", STRING, text(b"llama"))


def file(
    keys=(ARCHITECTURE,), tensors=(ONE_TENSOR,), *, data=128, version=3, key_count=None, tensor_count=None
) -> bytes:
    """A GGUF file byte by byte; the counts are true unless they are given."""
    counts = [
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    ]
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


def vet_bytes(raw: bytes) -> None:
    vet(io.BytesIO(raw), len(raw))


def refusal(raw: bytes, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        vet_bytes(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_well_formed_file_passes():
    vet_bytes(file())
    vet_bytes(file(version=2))


def test_the_survey_says_where_everything_lies():
    raw = file(tensors=(tensor(b"a", (32,), F32, 0), tensor(b"b", (32, 2), Q8_0, 128)), data=128 + 68)
    seen = survey(io.BytesIO(raw), len(raw))
    assert seen.architecture == "llama"
    assert [(one.name, one.offset, one.length) for one in seen.keys] == [
        ("general.architecture", 24, len(ARCHITECTURE))
    ]
    assert seen.table_offset == 24 + len(ARCHITECTURE)
    assert [(one.offset - seen.data_offset, one.length) for one in seen.tensors] == [(0, 128), (128, 68)]
    assert seen.data_offset % 32 == 0
    assert seen.tensors[1].offset + seen.tensors[1].length == len(raw)


def test_the_tiny_model_and_every_type_of_value_pass(tiny_gguf):
    path = tiny_gguf()
    with path.open("rb") as source:
        vet(source, path.stat().st_size)
    scalars = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    keys = [key(b"k%d" % kind, kind, bytes(width)) for kind, width in scalars.items()]
    arrays = [
        key(b"a%d" % kind, ARRAY, struct.pack("<IQ", kind, 3) + bytes(3 * width)) for kind, width in scalars.items()
    ]
    vet_bytes(file((ARCHITECTURE, *keys, *arrays)))


def test_a_file_without_tensors_passes():
    vet_bytes(file(tensors=(), data=0))


@pytest.mark.parametrize("begin", [b"PK\x03\x04", b"\x7fELF", b"ggjt", b"{\n  ", b"FUGG"])
def test_other_formats_are_not_gguf(begin):
    message = refusal(begin + bytes(100), NotGGUF)
    assert "it begins with" in message
    assert "convert" in message


def test_an_empty_file_is_not_gguf():
    assert refusal(b"", NotGGUF) == "the file is empty"


def test_a_big_endian_file_is_refused_with_the_way_out():
    assert "gguf-convert-endian" in refusal(b"GGUF" + struct.pack(">IQQ", 3, 0, 0), NotGGUF)


@pytest.mark.parametrize("version", [1, 4, 2**32 - 1])
def test_unknown_versions_are_refused(version):
    assert str(version) in refusal(file(version=version), NotGGUF)


def test_every_strict_prefix_is_refused(tiny_gguf):
    raw = tiny_gguf().read_bytes()
    for length in range(len(raw)):
        with pytest.raises((NotGGUF, Truncated)):
            vet(io.BytesIO(raw[:length]), length)


def test_a_file_shorter_than_its_stated_size_is_truncated():
    raw = file()
    with pytest.raises(Truncated, match="was it changed"):
        vet(io.BytesIO(raw[:40]), len(raw))


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 10**6])
def test_counts_that_cannot_fit_are_refused(count):
    assert "metadata keys" in refusal(file(key_count=count), Truncated)
    assert "tensors" in refusal(file(tensor_count=count), Truncated)


def test_counts_over_the_limits_are_refused_even_when_they_fit():
    assert "at most 131,072" in refusal(file(tensor_count=131_073, data=131_073 * 40), BadLayout)
    assert "at most 65,536" in refusal(file(key_count=65_537, data=65_537 * 20), BadLayout)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 5000])
def test_lengths_that_cannot_fit_are_refused(length):
    lie = struct.pack("<Q", length)
    refusal(file((ARCHITECTURE, lie + b"name")), Truncated)
    refusal(file((ARCHITECTURE, key(b"k", STRING, lie))), Truncated)
    refusal(file((ARCHITECTURE, key(b"k", ARRAY, struct.pack("<I", STRING) + lie))), Truncated)
    refusal(file((ARCHITECTURE, key(b"k", ARRAY, struct.pack("<I", UINT32) + lie))), Truncated)
    refusal(file((ARCHITECTURE, key(b"k", ARRAY, struct.pack("<IQ", STRING, 1) + lie))), Truncated)
    refusal(file(tensors=(lie + b"name",)), Truncated)


def test_more_strings_than_the_limit_are_refused_before_they_are_walked():
    strings = struct.pack("<IQ", STRING, 4_194_305)
    assert "at most" in refusal(file((ARCHITECTURE, key(b"k", ARRAY, strings)), data=4_194_305 * 8), BadLayout)


@pytest.mark.parametrize("name", [b"", b"\xff\xfe", b"a\x1b[2Jb", b"a\nb", "a\u202eb".encode(), b"x" * 65_536])
def test_metadata_keys_are_names_that_are_safe_to_print(name):
    refusal(file((ARCHITECTURE, key(name, UINT8, b"\0"), key(b"more", UINT8, b"\0"))), BadLayout)


@pytest.mark.parametrize("name", [b"", b"\xff", b"x" * 65, b"a\x07"])
def test_tensor_names_are_short_and_safe_to_print(name):
    refusal(file(tensors=(tensor(name),)), BadLayout)


def test_duplicates_are_refused_by_name():
    assert "'twice'" in refusal(file((ARCHITECTURE, *[key(b"twice", UINT8, b"\0")] * 2)), BadLayout)
    assert "'t'" in refusal(file(tensors=(tensor(), tensor(offset=128)), data=256), BadLayout)


@pytest.mark.parametrize("kind", [13, 255, 2**32 - 1])
def test_unknown_value_types_are_refused(kind):
    assert "unknown type" in refusal(file((ARCHITECTURE, key(b"k", kind, bytes(8)))), BadLayout)
    assert "unknown type" in refusal(file((ARCHITECTURE, key(b"k", ARRAY, struct.pack("<IQ", kind, 0)))), BadLayout)


def test_arrays_of_arrays_are_refused():
    nested = struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", UINT8, 0)
    assert "array of arrays" in refusal(file((ARCHITECTURE, key(b"k", ARRAY, nested))), BadLayout)


def test_booleans_are_0_or_1():
    vet_bytes(file((ARCHITECTURE, key(b"k", BOOL, b"\1"))))
    refusal(file((ARCHITECTURE, key(b"k", BOOL, b"\2"))), BadLayout)
    refusal(file((ARCHITECTURE, key(b"k", ARRAY, struct.pack("<IQ", BOOL, 3) + b"\0\1\2"))), BadLayout)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        (key(b"general.architecture", UINT8, b"\0"),),
        (key(b"general.architecture", STRING, text(b"")),),
        (key(b"general.architecture", STRING, text(b"lla ma")),),
        (key(b"general.architecture", STRING, text(b"x" * 65)),),
    ],
)
def test_a_model_has_an_architecture_that_is_a_plain_word(keys):
    refusal(file(keys), BadLayout)


@pytest.mark.parametrize("alignment", [0, 1, 4, 33, 48])
def test_the_alignment_is_a_power_of_two(alignment):
    keys = (ARCHITECTURE, key(b"general.alignment", UINT32, struct.pack("<I", alignment)))
    assert "power of two" in refusal(file(keys), BadLayout)


def test_the_alignment_is_a_32_bit_number():
    refusal(file((ARCHITECTURE, key(b"general.alignment", 10, struct.pack("<Q", 64)))), BadLayout)


def test_a_larger_alignment_moves_the_data():
    keys = (ARCHITECTURE, key(b"general.alignment", UINT32, struct.pack("<I", 4096)))
    raw = file(keys).ljust(4096 + 128, b"\0")
    assert survey(io.BytesIO(raw), len(raw)).data_offset == 4096
    refusal(raw[:-1], Truncated)


@pytest.mark.parametrize("shape", [(0,), (2**63,), (2**32, 2**32), (2**40, 2**40, 2**40), (32, 0, 4)])
def test_shapes_that_nothing_has_are_refused(shape):
    assert "impossible shape" in refusal(file(tensors=(tensor(shape=shape),)), BadLayout)


@pytest.mark.parametrize("shape", [(), (1,) * 5])
def test_a_tensor_has_1_to_4_dimensions(shape):
    assert "dimensions" in refusal(file(tensors=(tensor(shape=shape),)), BadLayout)


def test_a_number_of_dimensions_that_would_read_for_hours_is_refused():
    raw = file(tensors=(text(b"t") + struct.pack("<I", 2**32 - 1),), data=1000)
    assert "dimensions" in refusal(raw, BadLayout)


@pytest.mark.parametrize("kind", [4, 5, 31, 1000])
def test_unknown_tensor_types_are_refused(kind):
    assert "unknown type" in refusal(file(tensors=(tensor(kind=kind),)), BadLayout)


def test_rows_are_whole_blocks():
    assert "block of Q4_0" in refusal(file(tensors=(tensor(shape=(16, 64), kind=Q4_0),)), BadLayout)


def test_tensors_start_on_the_alignment():
    assert "multiple of the alignment" in refusal(file(tensors=(tensor(offset=16),), data=256), BadLayout)


@pytest.mark.parametrize("offset", [32, 2**62, 2**64 - 32])
def test_tensors_lie_inside_the_file(offset):
    assert "lies from" in refusal(file(tensors=(tensor(offset=offset),)), Truncated)


def test_tensors_do_not_overlap():
    tensors = (tensor(b"a", offset=0), tensor(b"b", offset=96))
    assert "'a' and 'b' overlap" in refusal(file(tensors=tensors, data=1000), BadLayout)
    assert "'b' and 'a' overlap" in refusal(
        file(tensors=(tensor(b"a", offset=96), tensor(b"b", offset=0)), data=1000), BadLayout
    )


def test_tensors_may_come_in_any_order_with_gaps_between_and_bytes_after():
    vet_bytes(file(tensors=(tensor(b"a", offset=256), tensor(b"b", offset=0)), data=1000))


def test_the_table_of_types_is_that_of_the_gguf_package():
    import gguf

    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    ours = {one.number: (one.name, one.block_elements, one.block_bytes) for one in BY_NUMBER.values()}
    assert ours == theirs
