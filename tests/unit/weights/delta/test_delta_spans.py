"""Scales that are foretold from minimums: exact on every machine, and never more than a guess."""

from dataclasses import replace

import numpy as np
import pytest
from gguf_samples import draw_weights, sample_file, tensor

from deltaic.weights.delta.apply import make_chunk
from deltaic.weights.delta.encode import encode
from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.spans import Spans, read_spans, write_spans
from deltaic.weights.errors import BadDelta

STEPS = {"Q4_1": 15, "Q5_1": 31}


def written(new, old):
    out = PayloadWriter()
    write_spans(out, new, old)
    return bytes(out.data)


def on_grid(weights, grid):
    """Weights as a type with so many bits of significand stores them."""
    kept = np.uint32(0xFFFFFFFF << (24 - grid) & 0xFFFFFFFF)
    return (weights.view(np.uint32) & kept).view(np.float32)


def spans_of(weights, steps):
    """What a plain quantiser makes of blocks of 32 weights."""
    blocks = weights.reshape(-1, 32)
    lowest, highest = blocks.min(1), blocks.max(1)
    scale = ((highest - lowest) / np.float32(steps)).astype(np.float16)
    return Spans(scale.view(np.uint16), lowest.astype(np.float16).view(np.uint16), steps)


@pytest.mark.parametrize("seed", range(8))
def test_any_sixteen_bits_are_given_back(seed):
    random = np.random.default_rng(seed)
    steps = (15, 31)[seed % 2]
    old = Spans(*random.integers(0, 1 << 16, (2, 5000)).astype(np.uint16), steps)
    new = Spans(*random.integers(0, 1 << 16, (2, 5000)).astype(np.uint16), steps)
    stayed = random.random(5000) < 0.5
    new.minimum[stayed] = old.minimum[stayed]
    reader = PayloadReader(written(new, old))
    assert np.array_equal(read_spans(reader, new.minimum, old), new.scale)
    reader.finish()


@pytest.mark.parametrize("count", [0, 1])
def test_few_blocks_are_given_back(count):
    old = Spans(*np.full((2, count), 0x3C00, np.uint16), 15)
    new = Spans(*np.full((2, count), 0x3C01, np.uint16), 15)
    assert np.array_equal(read_spans(PayloadReader(written(new, old)), new.minimum, old), new.scale)


@pytest.mark.parametrize("grid", [8, 11])
@pytest.mark.parametrize("steps", STEPS.values())
def test_scales_of_blocks_whose_lowest_weight_moved_are_foretold(grid, steps):
    random = np.random.default_rng(5)
    weights = on_grid(draw_weights(random, 64, 1024) + np.float32(0.01), grid).reshape(-1, 32)
    later = weights.copy()
    later[np.arange(len(later)), weights.argmin(1)] *= np.float32(1 + 2 ** (1 - grid) * 2)
    old, new = spans_of(weights, steps), spans_of(on_grid(later, grid), steps)
    right = old.foretell(new.minimum, grid) == new.scale
    assert (new.scale != old.scale).mean() > 0.5, "or nothing is foretold"
    assert right.mean() > (0.999 if grid == 8 else 0.7)
    assert right.mean() >= (old.foretell(new.minimum, 0) == new.scale).mean(), "the grid helps"


def test_what_gives_no_number_stays_as_it_was():
    scale = np.array([0x7C00, 0x3C00, 0x3C00, 0x3C00, 0x7BFF], np.uint16)
    minimum = np.array([0x0000, 0x7C00, 0x7E00, 0x0000, 0x7BFF], np.uint16)
    later = np.array([0x0001, 0x0000, 0x0000, 0x7E00, 0xFBFF], np.uint16)
    for grid in (0, 8, 11):
        assert np.array_equal(Spans(scale, minimum, 31).foretell(later, grid)[:4], scale[:4])


def test_an_unknown_grid_is_refused():
    old = Spans(*np.full((2, 4), 0x3C00, np.uint16), 15)
    with pytest.raises(BadDelta, match="significand of 9 bits"):
        read_spans(PayloadReader(bytes([9, 0, 0])), old.minimum, old)


def made_of(tmp_path, ggml_type):
    """A delta between two versions in bfloat16, of which one weight in fifty moved; index, packs, old bytes."""
    random = np.random.default_rng(3)
    weights = on_grid(draw_weights(random, 256, 1024), 8)
    moved = np.where(random.random(weights.shape) < 0.02, np.float32(1 + 2**-7), np.float32(1))
    old = sample_file(tmp_path / "old", [tensor("w", ggml_type, weights)])
    new = sample_file(tmp_path / "new", [tensor("w", ggml_type, on_grid(weights * moved, 8))])
    packs = []
    index = encode(old, new, lambda _, data: packs.append(data), jobs=1)
    return index, packs, old.read_bytes()


@pytest.mark.parametrize("ggml_type", STEPS)
def test_a_version_with_moved_minimums_is_sent_by_spans(tmp_path, ggml_type):
    index, _, _ = made_of(tmp_path, ggml_type)
    assert Codec.SPANS in {part.codec for part in index.parts}


def test_spans_of_a_type_without_minimums_are_refused(tmp_path):
    index, packs, old = made_of(tmp_path, "Q4_0")
    part = next(part for part in index.parts if part.codec == Codec.BLOCK)
    payload = packs[part.pack][part.payload_offset : part.payload_offset + part.payload_length]
    with pytest.raises(BadDelta, match="Q4_0, which has none"):
        make_chunk(index, replace(part, codec=Codec.SPANS), lambda at, size: old[at : at + size], payload)
