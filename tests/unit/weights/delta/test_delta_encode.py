"""What encoding promises: the same delta always, nothing twice, and as little as possible for what did not change."""

import numpy as np
import pytest
from gguf_samples import Sample, draw_weights, evolve, noise, sample_file, tensor

from deltaic.weights.delta.diff import write_delta
from deltaic.weights.delta.encode import PACK_BYTES, encode
from deltaic.weights.delta.index import MAX_PACK_BYTES, Codec
from deltaic.weights.delta.patch import apply_delta
from deltaic.weights.digest import Digest


def encoded(old, new, jobs=1):
    packs = []
    return encode(old, new, lambda digest, data: packs.append((digest, data)), jobs=jobs), packs


@pytest.fixture
def random():
    return np.random.default_rng(11)


def test_any_number_of_jobs_gives_the_same_delta(made):
    assert encoded(made.old, made.new, jobs=1) == encoded(made.old, made.new, jobs=2)


def test_packs_are_named_by_their_digests_and_come_in_order(made):
    index, packs = encoded(made.old, made.new)
    assert [digest for digest, _ in packs] == list(index.packs)
    assert all(digest == Digest.of(data) for digest, data in packs)


def test_packs_are_of_about_a_mebibyte(random, tmp_path):
    old = sample_file(tmp_path / "old", [noise(random, f"{n}", "Q8_0", 100, 2048) for n in range(12)])
    new = sample_file(tmp_path / "new", [noise(random, f"{n}", "Q8_0", 100, 2048) for n in range(12)])
    index, _ = encoded(old, new)
    assert len(index.packs) >= 3
    assert all(PACK_BYTES // 2 < pack.size <= PACK_BYTES for pack in index.packs[:-1])


def test_a_chunk_that_does_not_compress_makes_one_larger_pack(random, tmp_path):
    old = sample_file(tmp_path / "old", [noise(random, "w", "I16", 16, 1 << 17)])
    new = sample_file(tmp_path / "new", [noise(random, "w", "I16", 16, 1 << 17)])
    index, _ = encoded(old, new)
    assert max(pack.size for pack in index.packs) > 4_000_000
    assert all(pack.size <= MAX_PACK_BYTES for pack in index.packs)


def test_from_a_file_to_itself_nothing_is_carried(made):
    index, packs = encoded(made.new, made.new)
    assert packs == []
    assert {part.codec for part in index.parts} == {Codec.REUSE}
    assert not any(segment.changed for segment in index.segments)


def test_a_tensor_that_moved_or_was_renamed_is_not_carried(random, tmp_path):
    weights = [noise(random, name, "Q4_0", 64, 1024) for name in ("a", "b")]
    old = sample_file(tmp_path / "old", weights)
    renamed = [noise(np.random.default_rng(0), "first", "F32", 1, 64), *reversed(weights)]
    new = sample_file(tmp_path / "new", renamed, {"general.name": "in another order"})
    index, _ = encoded(old, new)
    assert index.size < 2000


def test_a_changed_key_costs_next_to_nothing(random, tmp_path):
    weights = [noise(random, "w", "Q4_0", 64, 1024)]
    old = sample_file(tmp_path / "old", weights, {"tokenizer.chat_template": "Be kind. " * 400})
    new = sample_file(tmp_path / "new", weights, {"tokenizer.chat_template": "Be kind. " * 399 + "Be brief."})
    index, _ = encoded(old, new)
    assert index.size < 1000


def test_few_changed_weights_cost_little(random, tmp_path):
    for ggml_type in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K"):
        weights = draw_weights(random, 64, 1024)
        old = sample_file(tmp_path / "old", [tensor("w", ggml_type, weights)])
        new = sample_file(tmp_path / "new", [tensor("w", ggml_type, evolve(random, weights, "one"))])
        index, _ = encoded(old, new)
        assert index.size < 1000


def test_unrelated_weights_cost_an_index_more_than_themselves_at_most(random, tmp_path):
    old = sample_file(tmp_path / "old", [noise(random, "w", "Q4_1", 64, 1024)])
    new = sample_file(tmp_path / "new", [noise(random, "w", "Q4_1", 64, 1024)])
    index, _ = encoded(old, new)
    assert index.size < new.stat().st_size + 600


def test_it_says_which_tensors_changed(made):
    index, _ = encoded(made.old, made.new)
    changed = {segment.name for segment in index.segments if segment.changed}
    assert {"came", "blk.0.Q4_K.weight", "blk.0.BF16.weight"} <= changed
    assert not {"kept", "other.I16", "other.MXFP4"} & changed


@pytest.mark.parametrize("before", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("after", ["F32", "F16", "BF16", "Q4_0"])
def test_infinities_and_every_kind_of_nan_are_numbers_like_others(before, after, random, tmp_path):
    weights = draw_weights(random, 8, 256)
    special = {
        "F32": (0x7F800000, 0x7FC00000, 0xFF800001),
        "F16": (0x7C00, 0x7E00, 0xFC01),
        "BF16": (0x7F80, 0x7FC0, 0xFF81),
    }
    sample = tensor("w", before, weights)
    numbers = np.frombuffer(sample.data, np.uint32 if before == "F32" else np.uint16).copy()
    numbers[[3, 700, 1500]] = special[before]
    old = sample_file(tmp_path / "old", [Sample("w", before, 8, 256, numbers.tobytes())])
    new = sample_file(tmp_path / "new", [tensor("w", after, evolve(random, weights, "low rank"))])
    write_delta(old, new, tmp_path / "delta", jobs=1)
    apply_delta(old, tmp_path / "delta", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new.read_bytes()


def test_what_keeps_packs_may_end_it(made):
    def full(_digest, _data):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        encode(made.old, made.new, full, jobs=1)


def test_progress_only_grows_and_ends_at_the_size_of_the_target(made):
    said = []
    encode(made.old, made.new, lambda *_: None, jobs=1, on_progress=lambda done, size: said.append((done, size)))
    assert [one for one, _ in said] == sorted(one for one, _ in said)
    assert said[-1] == (made.new.stat().st_size,) * 2
