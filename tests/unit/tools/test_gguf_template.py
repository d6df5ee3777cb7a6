"""Changing the chat template of a GGUF file changes nothing else."""

import hashlib

import pytest
from gguf import GGUFReader
from gguf_template import KEY, replace_in_template

OLD = "<|{{ m['role'] }}|>"


@pytest.fixture
def changed(tiny_gguf, tmp_path):
    """A source and what became of it, with a template that is longer by more than an alignment."""
    source, target = tiny_gguf(), tmp_path / "changed.gguf"
    replace_in_template(source, target, OLD, f"{OLD} Answer in one short sentence, and be kind to everybody.")
    return source, target


def test_the_template_is_the_new_one(changed):
    template = GGUFReader(changed[1]).fields[KEY].contents()
    assert template.count("Answer in one short sentence, and be kind to everybody.") == 1


def test_every_other_key_stays_as_it_was_and_where_it_was(changed):
    old, new = (GGUFReader(path).fields for path in changed)
    assert list(old) == list(new)
    for key in old:
        if key != KEY:
            assert [bytes(part) for part in old[key].parts] == [bytes(part) for part in new[key].parts]


def test_every_tensor_stays_as_it_was_byte_for_byte(changed):
    old, new = (GGUFReader(path).tensors for path in changed)
    assert [(t.name, t.tensor_type, t.data.tobytes()) for t in old] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in new
    ]


def test_tensors_stay_aligned(changed):
    reader = GGUFReader(changed[1])
    assert reader.data_offset % reader.alignment == 0


def test_a_text_of_the_same_length_changes_only_those_bytes(tiny_gguf, tmp_path):
    source, target = tiny_gguf(), tmp_path / "same.gguf"
    replace_in_template(source, target, "role", "ROLE")
    assert target.read_bytes() == source.read_bytes().replace(b"m['role']", b"m['ROLE']")


def test_there_and_back_is_the_same_file(changed, tmp_path):
    source, target = changed
    back = tmp_path / "back.gguf"
    replace_in_template(target, back, " Answer in one short sentence, and be kind to everybody.", "")
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


@pytest.mark.parametrize("old", ["not in it", "%}"])
def test_a_text_that_is_not_there_once_is_refused(old, tiny_gguf, tmp_path):
    with pytest.raises(ValueError, match="does not hold once"):
        replace_in_template(tiny_gguf(), tmp_path / "never.gguf", old, "new")
    assert not (tmp_path / "never.gguf").exists()
