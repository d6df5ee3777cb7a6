"""Deltas between tiny files, one and more for each tensor type and codec, for a fuzzer to start from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from delta_surgery import Anatomy, take_apart
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

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.delta.encode import encode

Random = np.random.Generator

_SHAPES = ((8, 256), (24, 512), (3, 1024))
_LARGE = ("Q2_K", "Q4_0", "Q8_0", "IQ4_XS", "BF16", "F32")
_LARGE_ROW = 1024
_ACROSS = (
    *(("Q8_0", "Q4_K"), ("BF16", "Q4_0"), ("F16", "Q8_0"), ("Q4_K", "Q5_K"), ("F32", "BF16"), ("BF16", "Q6_K")),
    *(("F16", "Q5_0"), ("Q8_0", "Q4_1"), ("F16", "BF16"), ("Q6_K", "IQ4_XS")),
)


@dataclass(frozen=True, slots=True)
class Seed:
    """A delta that works: the source that it is from, and its pieces. `codecs` counts parts by the codec's name."""

    name: str
    source: bytes
    anatomy: Anatomy
    codecs: Counter[str]


def make_seeds(random: Random, folder: Path) -> list[Seed]:
    """Seeds of every type, across types, and of files that differ in their tensors; `folder` gets scratch files."""
    return [_seed(name, old, new, folder) for name, old, new in _pairs(random)]


def make_large_seeds(random: Random, folder: Path) -> list[Seed]:
    """Seeds of whole chunks of 4 MiB, in which much changed: what takes most memory. Some seconds each."""
    seeds = []
    for ggml_type in _LARGE:
        weights = draw_weights(random, MAX_CHUNK_BYTES // row_bytes(ggml_type, _LARGE_ROW), _LARGE_ROW)
        old, new = (tensor("w", ggml_type, each) for each in (weights, evolve(random, weights, "all")))
        seeds.append(_seed(f"{ggml_type}, a whole chunk", [old], [new], folder))
    return seeds


def _pairs(random: Random) -> Iterator[tuple[str, Sequence[Sample], Sequence[Sample]]]:
    changes = cycle(CHANGES)
    for ggml_type in TYPES:
        old, new = [], []
        for number, shape in enumerate(_SHAPES):
            weights = draw_weights(random, *shape)
            name = f"blk.{number}.ffn_up.weight"
            old.append(tensor(name, ggml_type, weights))
            new.append(tensor(name, ggml_type, evolve(random, weights, next(changes))))
        old.append(noise(random, "noise.weight", ggml_type, 4, 256))
        new.append(_disturbed(random, old[-1]))
        yield ggml_type, old, new
    for ggml_type in OTHER_TYPES:
        old = [noise(random, "other.weight", ggml_type, 4, 256)]
        yield ggml_type, old, [_disturbed(random, old[0])]
    for before, after in _ACROSS:
        weights = draw_weights(random, 24, 512)
        yield f"{before} to {after}", [tensor("w", before, weights)], [tensor("w", after, weights)]
    values = draw_weights(random, 24, 512)
    for before, after in _ACROSS:
        yield f"noise of {before} to {after}", [noise(random, "w", before, 24, 512)], [tensor("w", after, values)]
    weights = draw_weights(random, 16, 256)
    old = [tensor("gone", "F16", weights), tensor("cut", "Q8_0", weights)]
    new = [tensor("came", "F16", weights), tensor("cut", "Q8_0", evolve(random, weights, "nudged")[:10])]
    yield "renamed and cut", old, new


def _disturbed(random: Random, sample: Sample) -> Sample:
    """The same tensor with some bytes changed."""
    data = np.frombuffer(sample.data, np.uint8).copy()
    places = random.random(len(data)) < 0.03
    data[places] = random.integers(0, 256, int(places.sum()))
    return Sample(sample.name, sample.ggml_type, sample.rows, sample.row_elements, data.tobytes())


def _seed(name: str, old: Sequence[Sample], new: Sequence[Sample], folder: Path) -> Seed:
    source = sample_file(folder / "old.gguf", old, {"general.name": "before"})
    target = sample_file(folder / "new.gguf", new, {"general.name": "after", "general.description": name})
    packs: list[bytes] = []
    index = encode(source, target, lambda _, data: packs.append(data), jobs=1)
    codecs = Counter(part.codec.name for part in index.parts)
    return Seed(name, source.read_bytes(), take_apart(index.data, packs), codecs)
