"""Applying takes little memory, whatever changed and whatever the size of the file; and so does reading an index."""

import subprocess
import sys

import numpy as np
import pytest
from delta_surgery import take_apart, wrap
from gguf_samples import draw_weights, evolve, row_bytes, sample_file, tensor

from deltaic.weights.delta.diff import write_delta

ALLOWED_MIB = 64
ROW = 1024

_APPLY = """
import sys
from pathlib import Path
from deltaic.weights.delta.patch import apply_delta
apply_delta(*map(Path, sys.argv[1:]))
"""
_PARSE = """
import sys
from pathlib import Path
from deltaic.errors import DeltaicError
from deltaic.weights.delta.patch import read_index
try:
    read_index(Path(sys.argv[1]))
except DeltaicError:
    pass
"""
# Reads the peak of a child that has none of this process's memory, as a fork would.
_MEASURE = """
import os, resource, sys
os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def mib_above_the_interpreter(program, *arguments):
    """Peak resident memory of a Python program above that of one that does nothing, in MiB."""
    return (_peak_kib(program, *arguments) - _peak_kib("pass")) / 1024


def _peak_kib(program, *arguments):
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, sys.executable, "-c", program, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("ggml_type", ["Q4_0", "Q8_0", "Q4_K", "IQ4_XS", "BF16", "F16"])
@pytest.mark.parametrize("change", ["nudged", "all"])
def test_a_whole_chunk_is_made_in_bounded_memory(ggml_type, change, tmp_path):
    random = np.random.default_rng(6)
    weights = draw_weights(random, (4 << 20) // row_bytes(ggml_type, ROW), ROW)
    old = sample_file(tmp_path / "old", [tensor("w", ggml_type, weights)])
    new = sample_file(tmp_path / "new", [tensor("w", ggml_type, evolve(random, weights, change))])
    write_delta(old, new, tmp_path / "delta", jobs=1)
    took = mib_above_the_interpreter(_APPLY, old, tmp_path / "delta", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    assert took <= ALLOWED_MIB


def test_an_index_of_millions_of_parts_is_read_or_refused_in_bounded_memory(made, tmp_path):
    anatomy = take_apart(made.index.data, made.packs)
    many = 3_000_000 - sum(anatomy.columns["parts"])
    anatomy.columns["parts"][0] += many
    for name, value in (("codec", 0), ("made", 1), ("source_offset", 0), ("source_bytes", 1), ("payload_bytes", 0)):
        anatomy.columns[name] = [value] * many + anatomy.columns[name]
    anatomy.target = (anatomy.target[0], sum(anatomy.columns["made"]))
    hostile = tmp_path / "delta"
    hostile.write_bytes(wrap(anatomy.raw_index()))
    assert hostile.stat().st_size < 20_000
    assert mib_above_the_interpreter(_PARSE, hostile) < 3 * ALLOWED_MIB
