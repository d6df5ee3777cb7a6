#!/usr/bin/env python3
"""Write the test vectors of the delta format: tests/vectors/delta-v1/NAME/{old.gguf,new.gguf,delta}.

Run it once for a version of the format, when the format is settled, and never again for that version: the vectors are
what deltas of today look like to every later program. Where vectors are already, only new names are added.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf_samples import OTHER_TYPES, TYPES, Sample, draw_weights, evolve, noise, sample_file, tensor

from deltaic.weights.delta.diff import write_delta
from deltaic.weights.delta.patch import apply_delta
from deltaic.weights.ggml_types import BY_NAME

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "delta-v1"
Random = np.random.Generator
Tensors = tuple[list[Sample], list[Sample]]

_CHANGES = {"nudged": "nudged", "few": "sparse", "low-rank": "low rank", "strong": "all"}
_STORED = {"F32": 0xFFFFFFFF, "F16": 0xFFFFE000, "BF16": 0xFFFF0000}
"""Which bits of binary32 are left of weights that were stored in a type."""
_ODD = np.array([0x0000, 0x8000, 0x0001, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFFFF], np.uint16)
"""Half-precision zeros, the smallest, the largest, infinities, no numbers."""
_ACROSS = (("Q8_0", "Q4_K"), ("BF16", "Q4_0"), ("F16", "Q8_0"), ("BF16", "Q6_K"), ("Q4_K", "Q5_K"))


def vectors(random: Random) -> dict[str, Tensors]:
    """Tensors before and after, by the name of the vector."""
    made = {name: _changed(random, change) for name, change in _CHANGES.items()}
    weights = draw_weights(random, 8, 512)
    made["requantised"] = (
        [tensor(f"{old}-{new}", old, weights) for old, new in _ACROSS],
        [tensor(f"{old}-{new}", new, weights) for old, new in _ACROSS],
    )
    made["noise"] = _noise(random)
    made["rows"] = (
        [tensor("longer", "Q4_0", weights[:5]), tensor("shorter", "F16", weights), tensor("gone", "F32", weights[:1])],
        [tensor("longer", "Q4_0", weights), tensor("came", "F32", weights[1:2]), tensor("shorter", "F16", weights[:3])],
    )
    made["spans"] = _spans(random)
    return made


def _changed(random: Random, change: str) -> Tensors:
    old, new = [], []
    for ggml_type in TYPES:
        weights = draw_weights(random, 8, 256)
        old.append(tensor(f"{ggml_type}.weight", ggml_type, weights))
        new.append(tensor(f"{ggml_type}.weight", ggml_type, evolve(random, weights, change)))
    return old, new


def _noise(random: Random) -> Tensors:
    """Random bytes, infinities and NaNs among them, of which some change."""
    old = [noise(random, f"{ggml_type}.weight", ggml_type, 2, 256) for ggml_type in (*TYPES, *OTHER_TYPES)]
    new = []
    for sample in old:
        data = np.frombuffer(sample.data, np.uint8).copy()
        places = random.random(len(data)) < 0.05
        data[places] = random.integers(0, 256, int(places.sum()))
        new.append(Sample(sample.name, sample.ggml_type, sample.rows, sample.row_elements, data.tobytes()))
    return old, new


def _spans(random: Random) -> Tensors:
    """The types with scale and minimum, from weights of 32 and of 16 bits; a few of their numbers are odd ones."""
    old: list[Sample] = []
    new: list[Sample] = []
    for ggml_type in ("Q4_1", "Q5_1"):
        for stored, kept in _STORED.items():
            weights = draw_weights(random, 16, 256)
            for versions, values in ((old, weights), (new, evolve(random, weights, "nudged"))):
                cut = (values.view(np.uint32) & np.uint32(kept)).view(np.float32)
                versions.append(_with_odd_halves(random, tensor(f"{ggml_type}.{stored}.weight", ggml_type, cut)))
    return old, new


def _with_odd_halves(random: Random, sample: Sample) -> Sample:
    blocks = np.frombuffer(sample.data, np.uint8).reshape(-1, BY_NAME[sample.ggml_type].block_bytes).copy()
    odd = np.flatnonzero(random.random(len(blocks)) < 0.02)
    blocks[odd, :4] = random.choice(_ODD, (len(odd), 2)).view(np.uint8)
    return replace(sample, data=blocks.tobytes())


def write(folder: Path, old: Sequence[Sample], new: Sequence[Sample]) -> None:
    """Write one vector, and see that it works."""
    folder.mkdir(parents=True)
    before = sample_file(folder / "old.gguf", old, {"general.name": "before"})
    after = sample_file(folder / "new.gguf", new, {"general.name": "after"})
    index = write_delta(before, after, folder / "delta", jobs=1)
    apply_delta(before, folder / "delta", folder / "made")
    (folder / "made").unlink()
    codecs = sorted({part.codec.name for part in index.parts})
    print(f"    {folder.name}: {index.size:,} bytes, {', '.join(codecs)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    made = {name: pair for name, pair in vectors(np.random.default_rng(1)).items() if not (folder / name).exists()}
    for name, (old, new) in made.items():
        write(folder / name, old, new)
    if not made:
        print(f"every vector is in {folder} already", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
