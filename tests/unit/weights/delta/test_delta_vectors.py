"""Deltas that were written once are read for ever: the vectors of the format, byte for byte."""

from collections import Counter
from pathlib import Path

import pytest

from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.patch import apply_delta, read_index

VECTORS = Path(__file__).resolve().parents[3] / "vectors" / "delta-v1"
NAMES = sorted(path.parent.name for path in VECTORS.glob("*/delta"))


@pytest.mark.parametrize("name", NAMES)
def test_a_delta_of_then_makes_the_new_file_today(name, tmp_path):
    folder = VECTORS / name
    apply_delta(folder / "old.gguf", folder / "delta", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == (folder / "new.gguf").read_bytes()


def test_the_vectors_use_every_codec():
    used = Counter(part.codec for name in NAMES for part in read_index(VECTORS / name / "delta").parts)
    assert set(used) == set(Codec)


def test_the_vectors_are_described():
    described = (VECTORS / "README.md").read_text()
    assert all(f"| `{name}` |" in described for name in NAMES)
    assert len(NAMES) >= 7
