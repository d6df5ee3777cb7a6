"""Which files the bench of deltas takes, and how it names what it measures."""

from pathlib import Path

from delta_pairs import KINDS, pairs_of, trained_kinds
from delta_sides import peers_of
from finetunes import FORMATS, version_path

FOLDER = Path("/pairs")


def test_every_kind_is_measured_in_every_format():
    pairs = list(pairs_of(KINDS, FORMATS, FOLDER))
    trained = [kind for kind in KINDS if kind != "requant"]
    assert {(one.kind, one.form) for one in pairs if one.form} == {(kind, form) for kind in trained for form in FORMATS}
    assert len({one.case for one in pairs}) == len(pairs)


def test_a_pair_is_two_consecutive_versions_in_one_format():
    (pair,) = pairs_of(["strong"], ["Q8_0"], FOLDER)
    assert (pair.old, pair.new) == tuple(version_path(FOLDER, "strong", number, "Q8_0") for number in (1, 2))
    assert pair.old.name == "strong-v1.Q8_0.gguf"


def test_across_formats_the_weights_are_the_same_or_the_next():
    pairs = list(pairs_of(["requant"], FORMATS, FOLDER))
    assert all(pair.old.name.split(".")[1] != pair.new.name.split(".")[1] for pair in pairs)
    assert {pair.new.name.split(".")[0] for pair in pairs} == {"lora-v1", "lora-v2"}
    assert list(pairs_of(["requant"], ["Q8_0"], FOLDER)) == []


def test_the_same_weights_in_another_format_need_no_training_of_their_own():
    assert trained_kinds(["requant", "light"]) == ["light", "lora"]


def test_each_pair_meets_the_peers_that_its_bars_name():
    peers = {pair.label: peers_of(pair) for pair in pairs_of(["light", "requant"], FORMATS, FOLDER)}
    assert "bsdiff4" in peers["Q4_K_M"]
    assert "xdelta3" in peers["F16"]
    assert all({"zstd", "zstd --patch-from", "HDiffPatch"} <= set(names) for names in peers.values())
