"""The fuzzer's hands: what is taken apart goes together again, and every mutation changes something."""

import numpy as np
import pytest
from delta_mutations import MUTATIONS, mutate
from delta_seeds import make_seeds
from delta_surgery import take_apart, wrap

from deltaic.weights.delta.index import DeltaIndex


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return make_seeds(np.random.default_rng(1), tmp_path_factory.mktemp("seeds"))


def test_a_delta_goes_together_again(seeds):
    for seed in seeds:
        again = take_apart(wrap(seed.anatomy.raw_index()), seed.anatomy.packs)
        assert again == seed.anatomy
        DeltaIndex.parse(wrap(again.raw_index()))


def test_the_same_payloads_put_back_change_nothing(seeds):
    for seed in seeds:
        copy = seed.anatomy.copy()
        copy.put_payloads(copy.payloads())
        assert copy == seed.anatomy


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_changes_a_delta_and_not_its_seed(seeds, name):
    changed = 0
    for number, seed in enumerate(seeds):
        before, copy = seed.anatomy.copy(), seed.anatomy.copy()
        MUTATIONS[name](np.random.default_rng(number), copy)
        assert seed.anatomy == before
        changed += copy != before
    assert changed > len(seeds) / 3


def test_mutated_bytes_have_the_same_length():
    random = np.random.default_rng(2)
    data = bytes(100)
    many = [mutate(random, data, within=10) for _ in range(50)]
    assert {len(one) for one in many} == {100}
    assert all(one[10:] == data[10:] for one in many)
    assert mutate(random, b"") == b""
