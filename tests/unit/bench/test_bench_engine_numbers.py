"""The arithmetic of the engine bench: quantiles, arrivals, a test that tells two samples apart and two alike not."""

import random
from itertools import pairwise

import pytest
from engine_numbers import poisson_arrivals, quantile, rank_sum_p


def test_a_quantile_lies_between_its_neighbours() -> None:
    values = [float(value) for value in range(101)]
    random.Random(1).shuffle(values)
    assert [quantile(values, at) for at in (0.0, 0.5, 0.99, 1.0)] == [0.0, 50.0, 99.0, 100.0]
    assert quantile([1.0, 2.0], 0.25) == 1.25


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_arrivals_are_the_same_for_the_same_seed_and_come_at_the_rate() -> None:
    arrivals = poisson_arrivals(5.0, 400.0, seed=3)
    assert arrivals == poisson_arrivals(5.0, 400.0, seed=3) != poisson_arrivals(5.0, 400.0, seed=4)
    assert arrivals == sorted(arrivals)
    assert 0 < arrivals[0] < arrivals[-1] < 400
    assert 1800 < len(arrivals) < 2200  # 2,000 expected, deviation 45


def test_gaps_between_arrivals_vary_as_much_as_they_last() -> None:
    arrivals = poisson_arrivals(10.0, 1000.0, seed=1)
    gaps = [later - sooner for sooner, later in pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_arrivals_need_a_rate_and_a_time(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson_arrivals(rate, seconds, seed=1)


def test_two_samples_of_one_distribution_are_not_told_apart() -> None:
    source = random.Random(5)
    chances = [
        rank_sum_p([source.gauss(1, 0.1) for _ in range(20)], [source.gauss(1, 0.1) for _ in range(20)])
        for _ in range(20)
    ]
    assert sum(chance < 0.05 for chance in chances) <= 4  # one is expected
    assert 0.3 < sum(chances) / len(chances) < 0.7


def test_a_clear_difference_is_told_either_way() -> None:
    source = random.Random(6)
    fast = [source.gauss(0.1, 0.01) for _ in range(20)]
    slow = [source.gauss(0.5, 0.01) for _ in range(20)]
    assert rank_sum_p(fast, slow) == rank_sum_p(slow, fast) < 0.001


def test_the_chance_is_that_of_all_divisions() -> None:
    # Of the 20 ways to take three of six ranks, two are as far from the middle as 1, 2, 3.
    assert rank_sum_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(2 / 20, abs=0.01)
    assert rank_sum_p([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]) == 1.0


def test_one_value_is_no_sample() -> None:
    with pytest.raises(ValueError, match="at least two"):
        rank_sum_p([1.0], [1.0, 2.0])
