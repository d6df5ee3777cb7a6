"""What a delta may start from: the same tensors, in whatever types; the same types first."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from deltaic.transfer.deltas.likeness import WORTH_BYTES, bases, look_alike, most_bytes
from deltaic.weights.manifest import Manifest

_Q = gguf.GGMLQuantizationType


@pytest.fixture
def model(tmp_path: Path):
    """A model of one large tensor and a small one."""

    def make(
        name: str, kind: _Q, row_bytes: int, *, tensor: str = "up", seed: int = 0, rows: int = 4096, arch: str = "llama"
    ) -> Manifest:
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, arch)
        writer.add_name(name)
        raw = np.random.default_rng(seed).integers(0, 256, (rows, row_bytes), np.uint8)
        writer.add_tensor(f"{tensor}.weight", raw, raw_dtype=kind)
        writer.add_tensor("norm.weight", np.ones(64, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Manifest.build(path)

    return make


def test_the_same_weights_in_another_type_are_alike_and_come_after_the_same_type(model) -> None:
    want = model("want", _Q.Q4_0, 8 * 18, seed=1)
    eight_bits = model("eight", _Q.Q8_0, 8 * 34)
    before = model("before", _Q.Q4_0, 8 * 18, seed=2)
    assert look_alike(eight_bits, want)
    assert bases(want, [eight_bits, before]) == [before, eight_bits]
    assert bases(want, [want]) == []


def test_of_equally_close_ones_the_first_given_comes_first(model) -> None:
    want, one, two = (model(str(seed), _Q.Q4_0, 8 * 18, seed=seed) for seed in range(3))
    assert bases(want, [one, two]) == [one, two]
    assert bases(want, [two, one]) == [two, one]


@pytest.mark.parametrize("other", [{"tensor": "down"}, {"rows": 4000}, {"arch": "gemma3"}])
def test_other_tensors_other_shapes_and_other_architectures_are_not_alike(model, other) -> None:
    want, stranger = model("want", _Q.Q4_0, 8 * 18), model("stranger", _Q.Q4_0, 8 * 18, seed=1, **other)
    assert not look_alike(stranger, want)
    assert most_bytes(stranger, want) == 0


def test_a_delta_must_be_smaller_than_the_chunks_and_worth_the_effort(model, tiny_gguf) -> None:
    want, before = (model(str(seed), _Q.Q4_0, 8 * 18, seed=seed) for seed in range(2))
    assert 0.6 * want.size < most_bytes(before, want) < 0.75 * want.size
    old, new = Manifest.build(tiny_gguf()), Manifest.build(tiny_gguf(changed=["blk.0.attn_q.weight"]))
    assert new.size < WORTH_BYTES
    assert most_bytes(old, new) == 0, "so few bytes are fetched sooner than a delta is planned"
