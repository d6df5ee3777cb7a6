"""A small pair of files with a tensor of every type, one gone, one new and one cut, and the delta between them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from delta_surgery import Anatomy, take_apart
from gguf_samples import OTHER_TYPES, TYPES, draw_weights, evolve, noise, sample_file, tensor

from deltaic.weights.delta.diff import write_delta
from deltaic.weights.delta.index import DeltaIndex


@dataclass(frozen=True)
class Made:
    """Files on disk, and the delta in memory."""

    old: Path
    new: Path
    delta: Path
    index: DeltaIndex
    packs: list[bytes]

    def anatomy(self) -> Anatomy:
        return take_apart(self.index.data, self.packs)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("delta")
    random = np.random.default_rng(3)
    weights = {f"blk.0.{name}.weight": (name, draw_weights(random, 12, 512)) for name in TYPES}
    others = [noise(random, f"other.{name}", name, 2, 256) for name in OTHER_TYPES]
    gone, kept = tensor("gone", "F16", draw_weights(random, 3, 64)), tensor("kept", "Q8_0", draw_weights(random, 9, 64))
    cut = draw_weights(random, 16, 64)
    old = [tensor(name, kind, values) for name, (kind, values) in weights.items()]
    new = [tensor(name, kind, evolve(random, values, "nudged")) for name, (kind, values) in weights.items()]
    old = [*old, *others, gone, kept, tensor("cut", "Q8_0", cut)]
    new = [kept, *new, *others, tensor("came", "BF16", draw_weights(random, 3, 64)), tensor("cut", "Q8_0", cut[:7])]
    before = sample_file(folder / "old.gguf", old, {"general.name": "before"})
    after = sample_file(folder / "new.gguf", new, {"general.name": "after"})
    delta = folder / "delta"
    index = write_delta(before, after, delta, jobs=1)
    data = delta.read_bytes()[len(index.data) :]
    packs = []
    for pack in index.packs:
        packs.append(data[: pack.size])
        data = data[pack.size :]
    return Made(before, after, delta, index, packs)
