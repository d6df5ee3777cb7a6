"""The arithmetic of the engine bench: quantiles, arrivals, a test of two samples. Pure."""

from collections.abc import Sequence

import numpy as np

PERMUTATIONS = 20_000


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear between the two nearest values, as NumPy does. Raises ValueError when there are none."""
    if not values:
        raise ValueError("no values to take a quantile of")
    return float(np.quantile(np.asarray(values), fraction))


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments from 0 to `seconds` of a Poisson process of `rate` arrivals a second, the same for the same seed."""
    if rate <= 0 or seconds <= 0:
        raise ValueError("arrivals need a rate and a time above 0")
    random = np.random.default_rng(seed)
    moments: list[float] = []
    now = float(random.exponential(1 / rate))
    while now < seconds:
        moments.append(now)
        now += float(random.exponential(1 / rate))
    return moments


def rank_sum_p(first: Sequence[float], second: Sequence[float], *, seed: int = 1) -> float:
    """How likely two samples of one distribution differ at least so much: two-sided Mann-Whitney, by permutation.

    The statistic is the distance of the first sample's mean rank from the middle; its distribution is that of
    20,000 random divisions of all values, so ties and small samples need no approximation. The observed division
    counts as one of them: the result is never 0 (Phipson and Smyth, 2010).
    """
    if len(first) < 2 or len(second) < 2:
        raise ValueError("two samples of at least two values are needed")
    ranks = _ranks(np.concatenate([np.asarray(first), np.asarray(second)]))
    middle = (len(ranks) + 1) / 2
    observed = abs(float(ranks[: len(first)].mean()) - middle)
    random = np.random.default_rng(seed)
    orders = random.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    distances = np.abs(orders[:, : len(first)].mean(axis=1) - middle)
    as_far = int((distances >= observed - 1e-9).sum())
    return (as_far + 1) / (PERMUTATIONS + 1)


def _ranks(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """From 1; equal values share the mean of their places."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: np.ndarray[tuple[int], np.dtype[np.float64]] = (last - (counts - 1) / 2)[where]
    return shared
