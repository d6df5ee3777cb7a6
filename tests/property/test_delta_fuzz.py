"""A bounded share of the fuzzing of deltas; bench/results/fuzz-delta.json is a long run of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from delta_mutations import MUTATIONS

from deltaic.weights.delta.index import Codec

FUZZER = Path(__file__).resolve().parents[2] / "tools" / "fuzz_deltas.py"
CASES = 3000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The fuzzer, in a process of its own: it limits its memory, and it may die of what it looks for."""
    out = tmp_path_factory.mktemp("fuzz") / "found.json"
    command = [sys.executable, FUZZER, "--count", str(CASES), "--seed", "20", "--small", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    return done, json.loads(out.read_text()) if out.exists() else {}


def test_mutated_deltas_end_in_a_verified_file_or_in_an_error_of_our_own(run):
    done, found = run
    assert (done.returncode, done.stderr) == (0, "")
    assert found["cases"] == CASES


def test_the_cases_reach_what_lies_behind_the_index(run):
    _, found = run
    assert set(found["outcomes"]) >= {"verified", "BadDelta", "DigestMismatch", "UnknownDelta"}
    assert found["outcomes"]["DigestMismatch"] > CASES / 20
    assert set(MUTATIONS) <= set(found["mutations"])


def test_the_deltas_have_parts_of_every_codec(run):
    _, found = run
    assert set(found["codecs_of_the_deltas"]) == {codec.name for codec in Codec}
