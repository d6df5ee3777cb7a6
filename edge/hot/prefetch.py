"""Which model to load before anybody asks for it: only into room that nobody needs, and only where it is likely."""

from collections.abc import Iterable

from edge.hot.policy import Model, Room
from edge.hot.rates import Rates

AHEAD_SECONDS = 3600.0
LEAST_VISITS = 0.05
"""Visits that are expected within that time, at least: a load costs work even where it costs no room."""


def likely(rates: Rates, absent: Iterable[Model], free: Room, now: float) -> Model | None:
    """The one that spares most per byte, of those that fit into what is free; None where none is worth it."""
    best, most = None, 0.0
    for model in absent:
        if (free - model.room).missing:
            continue
        visits = rates.ahead(model.name, now, AHEAD_SECONDS)
        spared = visits * model.load_seconds / max(1, model.room.ram + model.room.vram)
        if visits >= LEAST_VISITS and spared > most:
            best, most = model, spared
    return best
