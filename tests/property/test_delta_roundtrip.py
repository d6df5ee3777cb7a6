"""apply(delta(A, B), A) == B, for files of every type, whatever happened between A and B."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from gguf_samples import (
    CHANGES,
    OTHER_TYPES,
    TYPES,
    Sample,
    draw_weights,
    evolve,
    noise,
    row_bytes,
    sample_file,
    tensor,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltaic.weights.delta.diff import write_delta
from deltaic.weights.delta.encode import encode
from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.patch import apply_delta, read_index
from deltaic.weights.errors import BadDelta, WrongBase
from deltaic.weights.ggml_types import BY_NAME

ALL_TYPES = (*TYPES, *OTHER_TYPES)
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def tensors_before_and_after(draw, name):
    """A tensor of A and what it is in B: changed, in another type, with other rows, renamed, new or gone."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    before, after = draw(st.sampled_from(ALL_TYPES)), draw(st.sampled_from(TYPES))
    rows, blocks = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    if before in OTHER_TYPES or draw(st.integers(0, 3)) == 0:
        return _noisy(draw, random, name, before, rows, blocks)
    after = before if draw(st.booleans()) else after
    step = max(BY_NAME[before].block_elements, BY_NAME[after].block_elements)
    columns = blocks * step if step > 1 else draw(st.integers(1, 700))
    weights = draw_weights(random, rows, columns)
    later = evolve(random, weights, draw(st.sampled_from(CHANGES)))
    if draw(st.integers(0, 7)) == 0:
        return noise(random, name, before, rows, columns), tensor(name, after, later)
    if draw(st.integers(0, 3)) == 0:
        later = np.concatenate([later, later])[draw(st.integers(0, rows)) :][: draw(st.integers(1, rows + 2))]
    return tensor(name, before, weights), tensor(draw(names(name)), after, later)


def names(name):
    return st.sampled_from([name] * 7 + [f"{name}.renamed"])


def _noisy(draw, random, name, ggml_type, rows, blocks):
    """Random bytes, infinities and NaNs among them, with some of them changed."""
    old = noise(random, name, ggml_type, rows, blocks * BY_NAME[ggml_type].block_elements)
    data = np.frombuffer(old.data, np.uint8).copy()
    places = random.random(len(data)) < draw(st.sampled_from([0, 0.001, 0.05, 0.5, 1]))
    data[places] = random.integers(0, 256, int(places.sum()))
    return old, Sample(draw(names(name)), ggml_type, old.rows, old.row_elements, data.tobytes())


@st.composite
def versions(draw):
    """Two files: tensors of each, in an order, and keys of each."""
    both = [draw(tensors_before_and_after(f"blk.{number}.weight")) for number in range(draw(st.integers(1, 4)))]
    old = [before for before, _ in both if draw(st.integers(0, 5))] or [both[0][0]]
    new = draw(st.permutations([after for _, after in both if draw(st.integers(0, 5))] or [both[0][1]]))
    keys = st.dictionaries(
        st.sampled_from(["general.name", "general.author", "x.y"]), st.text("ab é漢", max_size=40), max_size=3
    )
    return old, new, draw(keys), draw(keys)


@SLOW
@given(versions())
def test_the_old_file_and_the_delta_make_the_new_file(pair):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = (sample_file(folder / f"{n}.gguf", *pair[n::2]) for n in (0, 1))
        index = write_delta(old, new, folder / "delta", jobs=1)
        apply_delta(old, folder / "delta", folder / "made.gguf")
        assert (folder / "made.gguf").read_bytes() == new.read_bytes()
        assert read_index(folder / "delta") == index
        assert index.size <= new.stat().st_size + 400 + 100 * len(index.parts)


@settings(SLOW, max_examples=25)
@given(versions(), st.data())
def test_another_old_file_is_refused_or_makes_the_new_file(pair, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = (sample_file(folder / f"{n}.gguf", *pair[n::2]) for n in (0, 1))
        write_delta(old, new, folder / "delta", jobs=1)
        other = bytearray(old.read_bytes())
        other[data.draw(st.integers(0, len(other) - 1))] ^= data.draw(st.integers(1, 255))
        old.write_bytes(other)
        try:
            apply_delta(old, folder / "delta", folder / "made.gguf")
        except (WrongBase, BadDelta):
            assert not (folder / "made.gguf").exists()
        else:
            assert (folder / "made.gguf").read_bytes() == new.read_bytes()


@settings(SLOW, max_examples=25)
@given(versions())
def test_the_same_files_give_the_same_delta(pair):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = (sample_file(folder / f"{n}.gguf", *pair[n::2]) for n in (0, 1))
        packs = [[], []]
        first, again = (encode(old, new, lambda *pack, kept=kept: kept.append(pack), jobs=1) for kept in packs)
        assert first.data == again.data
        assert packs[0] == packs[1]


@pytest.mark.parametrize("ggml_type", TYPES)
def test_every_type_of_several_chunks_comes_back(ggml_type, tmp_path):
    random = np.random.default_rng(5)
    columns = 1024
    rows = 5_000_000 // row_bytes(ggml_type, columns)
    raw = np.resize(
        np.frombuffer(tensor("w", ggml_type, draw_weights(random, 64, columns)).data, np.uint8),
        rows * row_bytes(ggml_type, columns),
    )
    later = raw.copy()
    later[random.integers(0, len(raw), 5000)] ^= 1
    old = sample_file(tmp_path / "old", [Sample("w", ggml_type, rows, columns, raw.tobytes())])
    new = sample_file(tmp_path / "new", [Sample("w", ggml_type, rows, columns, later.tobytes())])
    index = write_delta(old, new, tmp_path / "delta", jobs=1)
    assert sum(part.codec != Codec.REUSE for part in index.parts) >= 2
    apply_delta(old, tmp_path / "delta", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    assert index.size < 0.05 * new.stat().st_size
