"""Requests as a branch makes them: Zipf with drift, bursts, a daily rhythm, jobs on a schedule.

Visits arrive by the hour of the week: offices are busy on weekdays by day. Who is visited is Zipf's choice, whose order
drifts: every few hours some models swap places, and now and then one that nobody wanted becomes the favourite. A visit
is a burst of requests seconds apart. Some models are asked for by a job instead, at the same minute of every weekday.
"""

import math
import random
from dataclasses import dataclass

GB = 1_000_000_000
HOUR, DAY = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Traced:
    """One model of the trace: bytes of its file, and where that rests: this disk, a peer, the center."""

    name: str
    size: int
    home: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order: second and model."""

    models: tuple[Traced, ...]
    requests: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What traces have in common; the seed makes the rest."""

    models: int = 28
    days: int = 10
    visits_a_day: float = 260.0
    zipf: float = 0.9
    burst: float = 4.0
    """Requests of a visit, on average."""
    gap: float = 25.0
    """Seconds between requests of a burst, on average."""
    jobs: int = 5
    drift_hours: float = 6.0


# Bytes of real files: 135 M to 70 B parameters in 4 to 8 bits.
_SIZES = (
    *(0.1, 0.25, 0.4, 0.5, 0.7, 0.8, 0.8, 1.1, 1.1, 1.6, 1.9, 2.0, 2.0, 2.4, 2.5, 3.2, 4.1, 4.4, 4.7),
    *(4.9, 4.9, 5.2, 7.2, 7.7, 8.5, 9.0, 14.0, 16.5, 20.0, 29.0),
)


def make_trace(shape: Shape, seed: int) -> Trace:
    """The same for the same seed."""
    chance = random.Random(seed)
    sizes = (
        chance.sample(_SIZES, shape.models) if shape.models <= len(_SIZES) else chance.choices(_SIZES, k=shape.models)
    )
    models = tuple(Traced(f"m{index:02}", int(size * GB), _home(size, chance)) for index, size in enumerate(sizes))
    requests = sorted([*_visits(shape, models, chance), *_jobs(shape, models, chance)])
    return Trace(models, tuple(requests))


def _home(size: float, chance: random.Random) -> str:
    """Nobody waits for a large model to come over the line."""
    drawn = chance.random()
    if drawn < 0.75:
        return "disk"
    return "center" if drawn > 0.92 and size < 3 else "peer"


def _visits(shape: Shape, models: tuple[Traced, ...], chance: random.Random) -> list[tuple[float, str]]:
    order = [model.name for model in models]
    chance.shuffle(order)
    weights = [1 / (rank + 1) ** shape.zipf for rank in range(len(order))]
    busiest = shape.visits_a_day / DAY * 2.6
    found: list[tuple[float, str]] = []
    now, drift_at = 0.0, shape.drift_hours * HOUR
    while True:
        now += chance.expovariate(busiest)
        if now >= shape.days * DAY:
            return found
        while now >= drift_at:
            _drift(order, chance)
            drift_at += shape.drift_hours * HOUR
        if chance.random() < busy(now) / 2.6:
            found += _burst(shape, chance.choices(order, weights)[0], now, chance)


def _drift(order: list[str], chance: random.Random) -> None:
    for _ in range(2):
        place = chance.randrange(len(order) - 1)
        order[place], order[place + 1] = order[place + 1], order[place]
    if chance.random() < 0.15:
        order.insert(chance.randrange(3), order.pop(chance.randrange(len(order))))


def _burst(shape: Shape, name: str, now: float, chance: random.Random) -> list[tuple[float, str]]:
    found = [(now, name)]
    while chance.random() < 1 - 1 / shape.burst:
        now += chance.expovariate(1 / shape.gap)
        found.append((now, name))
    return found


def _jobs(shape: Shape, models: tuple[Traced, ...], chance: random.Random) -> list[tuple[float, str]]:
    found: list[tuple[float, str]] = []
    for model in chance.sample(models, shape.jobs):
        minute = chance.randrange(24 * 60)
        for day in range(shape.days):
            if day % 7 < 5:
                found += _burst(shape, model.name, day * DAY + minute * 60 + chance.gauss(0, 90), chance)
    return [(max(0.0, at), name) for at, name in found]


def busy(now: float) -> float:
    """How busy this hour is; 1 on the average of a weekday. Day 0 is a Monday."""
    day, hour = int(now // DAY) % 7, now % DAY / HOUR
    by_day = 0.15 + 2.3 * math.exp(-(((hour - 11) / 2.6) ** 2)) + 1.9 * math.exp(-(((hour - 15.5) / 2.2) ** 2))
    return min(2.6, by_day) * (1.0 if day < 5 else 0.3)
