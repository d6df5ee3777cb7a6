"""`apply_delta` ends in a verified file or in nothing, and says which of the two files was wrong."""

import pytest
from delta_surgery import wrap

from deltaic.weights.delta.diff import write_delta
from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.patch import apply_delta, read_index
from deltaic.weights.errors import BadDelta, BadLayout, DigestMismatch, UnknownDelta, WrongBase


@pytest.fixture
def delta(made, tmp_path):
    """A copy of the delta that a test may damage."""
    path = tmp_path / "delta"
    path.write_bytes(made.delta.read_bytes())
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_makes_the_new_file_from_the_old(made, tmp_path):
    apply_delta(made.old, made.delta, tmp_path / "made.gguf")
    assert (tmp_path / "made.gguf").read_bytes() == made.new.read_bytes()
    assert names(tmp_path) == ["made.gguf"]


def test_the_index_of_a_file_is_that_of_the_delta(made):
    assert read_index(made.delta).digest == made.index.digest


def test_progress_only_grows_and_ends_at_the_size_of_the_target(made, tmp_path):
    said = []
    apply_delta(made.old, made.delta, tmp_path / "made", on_progress=lambda done, size: said.append((done, size)))
    done = [one for one, _ in said]
    assert done == sorted(done)
    assert said[-1] == (made.new.stat().st_size, made.new.stat().st_size)


def test_a_file_of_another_size_is_refused_before_anything_is_made(made, tmp_path):
    with pytest.raises(WrongBase, match="this delta is from a file of"):
        apply_delta(made.new, made.delta, tmp_path / "made")
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_file_with_one_other_byte_is_the_wrong_base_or_does_no_harm(made, tmp_path, place):
    other = bytearray(made.old.read_bytes())
    other[place] ^= 1
    old = tmp_path / "old"
    old.write_bytes(other)
    try:
        apply_delta(old, made.delta, tmp_path / "made")
    except (WrongBase, BadDelta):
        assert names(tmp_path) == ["old"]
    else:
        assert (tmp_path / "made").read_bytes() == made.new.read_bytes()


def test_a_file_with_other_weights_is_the_wrong_base(made, delta, tmp_path):
    part = next(part for part in made.index.parts if part.pack < 0 and part.source_length > 100)
    other = bytearray(made.old.read_bytes())
    other[part.source_offset + 50] ^= 1
    old = tmp_path / "old"
    old.write_bytes(other)
    with pytest.raises(WrongBase, match="is not the file that this delta is from"):
        apply_delta(old, delta, tmp_path / "made")


def test_a_damaged_payload_leaves_no_file(made, delta, tmp_path):
    data = bytearray(delta.read_bytes())
    data[-20] ^= 0x55
    delta.write_bytes(data)
    with pytest.raises((BadDelta, DigestMismatch)):
        apply_delta(made.old, delta, tmp_path / "made")
    assert names(tmp_path) == ["delta"]


def test_a_damaged_delta_is_not_blamed_on_the_source(made, delta, tmp_path):
    anatomy = made.anatomy()
    place = next(number for number, length in enumerate(anatomy.columns["payload_bytes"]) if length)
    anatomy.columns["codec"][place] = Codec.RAW
    payloads = anatomy.payloads()
    payloads[place] = b"x" * anatomy.columns["made"][place]
    anatomy.put_payloads(payloads)
    delta.write_bytes(wrap(anatomy.raw_index()) + b"".join(anatomy.packs))
    with pytest.raises(DigestMismatch, match="the delta is damaged"):
        apply_delta(made.old, delta, tmp_path / "made")


@pytest.mark.parametrize("keep", [0, 3, 15, 16, 200, -1])
def test_a_cut_delta_leaves_no_file(made, delta, tmp_path, keep):
    delta.write_bytes(delta.read_bytes()[:keep])
    with pytest.raises(BadDelta):
        apply_delta(made.old, delta, tmp_path / "made")
    assert names(tmp_path) == ["delta"]


def test_a_delta_of_a_later_format_says_so(made, delta, tmp_path):
    data = bytearray(delta.read_bytes())
    data[4] = 9
    delta.write_bytes(data)
    with pytest.raises(UnknownDelta) as refused:
        apply_delta(made.old, delta, tmp_path / "made")
    assert "update Deltaic" in refused.value.hint


def test_a_file_that_was_there_survives_a_delta_that_fails(made, delta, tmp_path):
    there = tmp_path / "made"
    there.write_bytes(b"precious")
    delta.write_bytes(delta.read_bytes()[:-1])
    with pytest.raises(BadDelta):
        apply_delta(made.old, delta, there)
    assert there.read_bytes() == b"precious"


def test_something_else_than_a_delta_is_called_so(made, tmp_path):
    with pytest.raises(BadDelta, match="not a delta"):
        apply_delta(made.old, made.new, tmp_path / "made")


def test_no_delta_is_left_when_the_files_are_of_two_architectures(made, tiny_gguf, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf().read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    with pytest.raises(BadLayout, match="architecture"):
        write_delta(made.old, other, tmp_path / "delta", jobs=1)
    assert names(tmp_path) == ["other.gguf"]
