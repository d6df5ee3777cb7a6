"""An index is checked before anybody allocates, reads or writes by it."""

import struct
import tracemalloc

import pytest
import zstandard
from delta_surgery import wrap

from deltaic.weights.chunks import MAX_CHUNK_BYTES, split
from deltaic.weights.delta.index import MAX_FILE_BYTES, MAX_INDEX_BYTES, Codec, DeltaIndex, index_length
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadDelta, UnknownDelta
from deltaic.weights.gguf_layout import read_layout


def refuse(anatomy, error=BadDelta, match=None):
    with pytest.raises(error, match=match):
        DeltaIndex.parse(wrap(anatomy.raw_index()))


def first(anatomy, wanted):
    """The number of a part for which `wanted(codec)` holds."""
    return next(number for number, codec in enumerate(anatomy.columns["codec"]) if wanted(codec))


def test_a_second_reading_of_the_format_finds_the_same(made):
    anatomy = made.anatomy()
    again = DeltaIndex.parse(wrap(anatomy.raw_index()))
    assert (again.segments, again.parts, again.packs) == (made.index.segments, made.index.parts, made.index.packs)
    assert (again.source, again.target) == (Digest(*anatomy.source), Digest(*anatomy.target))


def test_it_names_the_files_that_it_is_from_and_to(made):
    assert made.index.source == Digest.of(made.old.read_bytes())
    assert made.index.target == Digest.of(made.new.read_bytes())


def test_each_part_makes_one_chunk_of_the_target(made):
    chunks = [extent for segment in read_layout(made.new).segments for extent in split(segment)]
    assert [(part.target_offset, part.target_length) for part in made.index.parts] == [
        (chunk.offset, chunk.length) for chunk in chunks
    ]


def test_its_segments_are_those_of_the_target(made):
    said = [(one.kind, one.name, one.ggml_type) for one in made.index.segments]
    assert said == [(one.kind, one.name, one.ggml_type) for one in read_layout(made.new).segments]


def test_its_size_is_that_of_index_and_packs(made):
    assert made.index.size == made.delta.stat().st_size


def test_payloads_fill_the_packs_in_order_and_exactly(made):
    for pack, parts in zip(made.index.packs, made.index.parts_by_pack(), strict=True):
        ends = [part.payload_offset + part.payload_length for part in parts]
        assert [part.payload_offset for part in parts] == [0, *ends[:-1]]
        assert ends[-1] == pack.size


@pytest.mark.parametrize("data", [b"", b"DLTI", b"GGUF" + bytes(12), bytes(16)])
def test_what_does_not_begin_as_a_delta_is_refused(data):
    with pytest.raises(BadDelta):
        DeltaIndex.parse(data)


def test_another_format_version_is_unknown_and_not_bad(made):
    data = bytearray(made.index.data)
    data[4] = 2
    with pytest.raises(UnknownDelta, match="format version 2"):
        DeltaIndex.parse(bytes(data))


def test_an_unknown_codec_is_unknown_and_not_bad(made):
    anatomy = made.anatomy()
    anatomy.columns["codec"][first(anatomy, lambda codec: codec != Codec.REUSE)] = 200
    refuse(anatomy, UnknownDelta, "unknown codec 200")


@pytest.mark.parametrize("column", ["type", "source_type"])
def test_an_unknown_tensor_type_is_unknown_and_not_bad(made, column):
    anatomy = made.anatomy()
    anatomy.columns[column][0] = 77
    refuse(anatomy, UnknownDelta, "unknown type 77")


@pytest.mark.parametrize("cut", [1, 16, 100])
def test_a_cut_index_is_refused(made, cut):
    with pytest.raises(BadDelta):
        DeltaIndex.parse(made.index.data[:-cut])


def test_an_index_with_more_behind_it_is_refused(made):
    with pytest.raises(BadDelta, match="more follows"):
        DeltaIndex.parse(made.index.data + b"x")


def test_bytes_that_mean_nothing_are_refused(made):
    with pytest.raises(BadDelta, match="mean nothing"):
        DeltaIndex.parse(wrap(made.anatomy().raw_index() + b"\0"))


def test_a_declared_length_beyond_the_limit_is_refused_before_it_is_allocated():
    packed = zstandard.ZstdCompressor().compress(bytes(100))
    for lengths in ((len(packed), MAX_INDEX_BYTES + 1), (MAX_INDEX_BYTES + 1, 100), (2**32 - 1, 2**32 - 1)):
        data = struct.pack("<4sHHII", b"DLTI", 1, 0, *lengths) + packed
        tracemalloc.start()
        with pytest.raises(BadDelta):
            DeltaIndex.parse(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_a_frame_that_holds_more_than_is_declared_is_refused():
    packed = zstandard.ZstdCompressor().compress(bytes(MAX_INDEX_BYTES))
    with pytest.raises(BadDelta):
        DeltaIndex.parse(struct.pack("<4sHHII", b"DLTI", 1, 0, len(packed), 1000) + packed)


def test_the_first_bytes_say_how_long_the_index_is(made):
    assert index_length(made.index.data[:16]) == len(made.index.data)


def test_a_count_that_the_index_does_not_hold_is_refused(made):
    for place in (80, 84, 88):  # segments, parts, packs
        raw = bytearray(made.anatomy().raw_index())
        for wrong in (0, 2**31, 2**32 - 1):
            raw[place : place + 4] = wrong.to_bytes(4, "little")
            with pytest.raises(BadDelta):
                DeltaIndex.parse(wrap(bytes(raw)))


@pytest.mark.parametrize("size", [0, MAX_FILE_BYTES + 1, 2**64 - 1])
def test_a_file_of_an_impossible_size_is_refused(made, size):
    for which in ("source", "target"):
        anatomy = made.anatomy()
        setattr(anatomy, which, (getattr(anatomy, which)[0], size))
        refuse(anatomy)


def test_parts_that_do_not_add_up_to_the_target_are_refused(made):
    anatomy = made.anatomy()
    anatomy.target = (anatomy.target[0], anatomy.target[1] + 1)
    refuse(anatomy, match="the target has")


@pytest.mark.parametrize("length", [0, MAX_CHUNK_BYTES + 1, 2**32 - 1])
def test_a_part_that_makes_no_chunk_is_refused(made, length):
    anatomy = made.anatomy()
    anatomy.columns["made"][first(anatomy, lambda codec: codec == Codec.PREFIX)] = length
    anatomy.target = (anatomy.target[0], sum(anatomy.columns["made"]))
    refuse(anatomy)


@pytest.mark.parametrize("offset", [1 << 40, 2**64 - 1, 2**63])
def test_a_part_that_reads_outside_the_source_is_refused(made, offset):
    anatomy = made.anatomy()
    anatomy.columns["source_offset"][0] = offset
    refuse(anatomy, match="outside the source")


def test_a_reused_part_must_be_as_long_as_what_it_reuses(made):
    anatomy = made.anatomy()
    place = first(anatomy, lambda codec: codec == Codec.REUSE)
    anatomy.columns["source_bytes"][place] -= 1
    refuse(anatomy, match="reuses")


def test_a_reused_part_has_no_payload(made):
    anatomy = made.anatomy()
    anatomy.columns["payload_bytes"][first(anatomy, lambda codec: codec == Codec.REUSE)] = 5
    refuse(anatomy, match="payload where none belongs")


def test_any_other_part_has_one(made):
    anatomy = made.anatomy()
    anatomy.columns["payload_bytes"][first(anatomy, lambda codec: codec != Codec.REUSE)] = 0
    refuse(anatomy, match="none where one does")


def test_a_pack_must_have_the_size_of_its_payloads(made):
    anatomy = made.anatomy()
    anatomy.columns["pack_bytes"][0] += 1
    refuse(anatomy, match="pack 0")


@pytest.mark.parametrize("size", [0, 6 << 20, 2**32 - 1])
def test_a_pack_of_an_impossible_size_is_refused(made, size):
    anatomy = made.anatomy()
    anatomy.columns["pack_bytes"][0] = size
    refuse(anatomy)


def test_a_payload_much_longer_than_its_chunk_is_refused(made):
    anatomy = made.anatomy()
    place = first(anatomy, lambda codec: codec == Codec.RAW)
    payloads = anatomy.payloads()
    payloads[place] += bytes(2000)
    anatomy.put_payloads(payloads)
    refuse(anatomy, match="cannot be")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x1b[31m", b"a\nb", "\u202egnp".encode()])
def test_a_name_that_is_no_printable_text_is_refused(made, name):
    anatomy = made.anatomy()
    place = next(number for number, old in enumerate(anatomy.names) if len(old) > 5)
    anatomy.names[place] = name
    anatomy.columns["name_bytes"][place] = len(name)
    refuse(anatomy)


def test_a_segment_without_parts_or_of_no_kind_is_refused(made):
    for column, value in (("parts", 0), ("kind", 3)):
        anatomy = made.anatomy()
        anatomy.columns[column][1] = value
        refuse(anatomy)
