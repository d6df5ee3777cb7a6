"""The layout covers a file from its first byte to its last and cuts the header where people change it."""

import gguf
import pytest

from deltaic.weights import gguf_layout
from deltaic.weights.errors import BadLayout, NotGGUF
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.layout import SegmentKind


def test_segments_are_contiguous_from_the_first_byte_to_the_last(tiny_gguf):
    path = tiny_gguf()
    layout = read_layout(path)
    assert layout.size == path.stat().st_size
    assert layout.architecture == "llama"
    assert [one.offset for one in layout.segments] == [0, *(one.end for one in layout.segments[:-1])]
    assert layout.segments[-1].end == layout.size
    assert all(one.length > 0 for one in layout.segments)


def test_the_header_is_cut_around_large_keys_and_the_chat_template(tiny_gguf):
    headers = [one.name for one in read_layout(tiny_gguf()).segments if one.kind is SegmentKind.HEADER]
    assert headers == [
        "GGUF",
        "general.architecture",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.chat_template",
        "general.quantization_version",
        "GGUF.tensors",
    ]


def test_tensors_are_where_the_gguf_package_finds_them(tiny_gguf):
    path = tiny_gguf(ballast=100_000)
    raw = path.read_bytes()
    theirs = {one.name: one for one in gguf.GGUFReader(path).tensors}
    ours = [one for one in read_layout(path).segments if one.kind is SegmentKind.TENSOR]
    assert {one.name for one in ours} == set(theirs)
    for one in ours:
        assert raw[one.offset : one.end] == theirs[one.name].data.tobytes()
        assert one.shape == tuple(theirs[one.name].shape)
        assert one.ggml_type == theirs[one.name].tensor_type.name


def test_padding_has_no_name_no_type_and_is_zeros(tiny_gguf):
    path = tiny_gguf()
    raw = path.read_bytes()
    padding = [one for one in read_layout(path).segments if one.kind is SegmentKind.PADDING]
    assert padding
    for one in padding:
        assert (one.name, one.ggml_type, one.shape) == ("", "", ())
        assert not any(raw[one.offset : one.end])


def test_bytes_after_the_last_tensor_are_padding(tiny_gguf):
    path = tiny_gguf()
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"signature")
    last = read_layout(path).segments[-1]
    assert (last.kind, last.offset, last.length) == (SegmentKind.PADDING, size, 9)


def test_a_new_chat_template_changes_only_its_own_segment_and_the_padding(tiny_gguf):
    def parts(path):
        raw = path.read_bytes()
        return {one.name: raw[one.offset : one.end] for one in read_layout(path).segments if one.name}

    old, new = parts(tiny_gguf()), parts(tiny_gguf(chat_template="{{ messages }}" * 1000))
    assert {name for name in old if old[name] != new[name]} == {"tokenizer.chat_template"}


def test_the_reader_that_spares_arrays_agrees_with_the_original(tiny_gguf):
    path = tiny_gguf()
    original, sparing = gguf.GGUFReader(path), gguf_layout._ArraySparingReader(path)
    assert [(one.name, one.offset) for one in sparing.fields.values()] == [
        (one.name, one.offset) for one in original.fields.values()
    ]
    assert sparing.data_offset == original.data_offset


def test_a_file_that_is_no_gguf_is_refused_before_the_package_sees_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_layout, "_ArraySparingReader", lambda path: pytest.fail("it was read"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(NotGGUF):
        read_layout(path)


class _Disagreeing(gguf_layout._ArraySparingReader):
    """A parser with another idea of the same bytes."""


class _OffByOneBlock(_Disagreeing):
    def __init__(self, path):
        super().__init__(path)
        self.tensors[0] = self.tensors[0]._replace(data_offset=self.tensors[0].data_offset + 32)


class _MissesAKey(_Disagreeing):
    def __init__(self, path):
        super().__init__(path)
        del self.fields["tokenizer.chat_template"]


class _Fails(_Disagreeing):
    def __init__(self, path):
        raise KeyError("whatever numpy says")


@pytest.mark.parametrize("other", [_OffByOneBlock, _MissesAKey, _Fails])
def test_a_file_that_two_parsers_read_differently_is_refused(tiny_gguf, monkeypatch, other):
    monkeypatch.setattr(gguf_layout, "_ArraySparingReader", other)
    with pytest.raises(BadLayout):
        read_layout(tiny_gguf())
