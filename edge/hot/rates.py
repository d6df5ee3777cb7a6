"""How often each model is asked for: now, and usually at this hour of the week. Times are seconds since the epoch.

What keeping a model spares is the load before its next request, whatever follows soon after that. So visits are
counted, requests after a pause, and the rate of a model is how likely its next request comes in the next second:

    burst    while somebody talks to it, the next request is near: as near as requests within visits usually are
    steady   visits of the last days
    rhythm   visits around this hour of the day in the week before, doubted as far as there were few

Memory is bounded: MOST models of 168 hours each; who was asked for longest ago is forgotten. Hours are those of UTC:
what a change to summer time moves is learned again within a week.
"""

import math
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

MOST = 512
HOURS = 7 * 24
PAUSE = 120.0
"""Seconds without a request after which the next one begins another visit."""

_FIRST_GAP = 30.0
_GAP_LEARN = 0.01
_SPANS = (1.5 * 86_400.0, 3 * 86_400.0)
"""Seconds over which visits are averaged: what is wanted this day, and these days."""
_HOUR = 3600.0
_DAY_HOURS = 24
_DOUBT = 10.0
"""Days of the steady rate that the days of the rhythm are mixed with."""


@dataclass(slots=True)
class Seen:
    """One model. `recent` and `lasting` are sums of visits that decay, as of `visited`; `week` has visits by hour."""

    first: float
    last: float
    recent: float = 0.0
    lasting: float = 0.0
    visited: float = 0.0
    """Second at which its last visit began."""
    hour: int = 0
    """Hours since the epoch of the hour that `visits` counts."""
    visits: int = 0
    usual: tuple[float, float] = (0.0, 0.0)
    """Visits that are usual in this hour and in the next, and days that this was learned from."""
    days: int = 0
    week: "array[float]" = field(default_factory=lambda: array("f", bytes(4 * HOURS)))


class Rates:
    """Not for several threads."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._gap = _FIRST_GAP

    def record(self, name: str, now: float) -> None:
        """A request asked for it. A clock that was set back counts as standing still."""
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = Seen(first=now, last=now - 2 * PAUSE, hour=int(now // _HOUR))
            if len(self._seen) > MOST:
                self._seen.popitem(last=False)
        _turn_hour(seen, now)
        elapsed = max(0.0, now - seen.last)
        if elapsed > PAUSE:
            recent, lasting = _decays(max(0.0, now - seen.visited))
            seen.recent = 1.0 + seen.recent * recent
            seen.lasting = 1.0 + seen.lasting * lasting
            seen.visited = now
            seen.visits += 1
        else:
            self._gap += _GAP_LEARN * (elapsed - self._gap)
        seen.last = max(seen.last, now)
        self._seen.move_to_end(name)

    def inherit(self, new: str, old: str) -> None:
        """A channel moved: who asked for the old revision will ask for the new one."""
        if old in self._seen and new not in self._seen:
            self._seen[new] = replace(self._seen[old], week=array("f", self._seen[old].week))

    def rate(self, name: str, now: float) -> float:
        """Loads a second that are to be expected if it were not loaded."""
        seen = self._seen.get(name)
        if seen is None:
            return 0.0
        _turn_hour(seen, now)
        steady = _steady(seen, now)
        this, following = (_believed(usual, steady, seen.days) for usual in seen.usual)
        if seen.visits and seen.visits >= seen.usual[0]:
            this = steady  # what is usual at this hour has come
        share = now / _HOUR % 1.0
        gap = max(1.0, self._gap)
        return math.exp(-max(0.0, now - seen.last) / gap) / gap + (1 - share) * this + share * following

    def ahead(self, name: str, now: float, seconds: float) -> float:
        """Visits expected within the coming `seconds`, by habit alone: nobody needs to be talking to it now."""
        seen = self._seen.get(name)
        if seen is None:
            return 0.0
        _turn_hour(seen, now)
        steady, visits, hour, at = _steady(seen, now), 0.0, int(now // _HOUR), now
        while at < now + seconds:
            until = min(now + seconds, (hour + 1) * _HOUR)
            visits += (until - at) * _believed(_usual(seen, hour), steady, _days(seen, hour))
            hour, at = hour + 1, until
        return visits

    def names(self) -> Iterable[str]:
        """Everybody who is remembered."""
        return tuple(self._seen)

    def dump(self) -> dict[str, list[object]]:
        """What a restart needs, as JSON can hold it."""
        return {
            name: [
                *(round(value, 3) for value in (seen.first, seen.last, seen.recent, seen.lasting, seen.visited)),
                seen.hour,
                seen.visits,
                {str(hour): round(visits, 3) for hour, visits in enumerate(seen.week) if visits},
            ]
            for name, seen in self._seen.items()
        }

    def restore(self, dumped: object) -> None:
        """Take what `dump` gave in place of everything.

        Raises ValueError, TypeError, KeyError or AttributeError for anything else, and changes nothing.
        """
        if not isinstance(dumped, dict):
            raise TypeError("rates are an object")
        restored: OrderedDict[str, Seen] = OrderedDict()
        for name, (first, last, recent, lasting, visited, hour, visits, week) in list(dumped.items())[-MOST:]:
            numbers = [float(value) for value in (first, last, recent, lasting, visited)]
            if not all(map(math.isfinite, numbers)) or min(numbers[2:]) < 0:
                raise ValueError("a rate that no requests make")
            seen = restored[str(name)] = Seen(
                numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], int(hour), int(visits)
            )
            for place, value in week.items():
                seen.week[int(place) % HOURS] = max(0.0, float(value))
            _expect(seen)
        self._seen = restored


def _turn_hour(seen: Seen, now: float) -> None:
    """Put the hours that have ended into the week; those without a request count too."""
    hour = int(now // _HOUR)
    if hour <= seen.hour:
        return
    for ended in range(max(seen.hour, hour - HOURS), hour):
        seen.week[ended % HOURS] = seen.visits if ended == seen.hour else 0
    seen.hour, seen.visits = hour, 0
    _expect(seen)


def _expect(seen: Seen) -> None:
    seen.usual = (_usual(seen, seen.hour), _usual(seen, seen.hour + 1))
    seen.days = _days(seen, seen.hour)


def _decays(elapsed: float) -> tuple[float, float]:
    return math.exp(-elapsed / _SPANS[0]), math.exp(-elapsed / _SPANS[1])


def _steady(seen: Seen, now: float) -> float:
    """Visits a second, over the time since it was first asked for where that is short."""
    age = max(_HOUR, now - seen.first)
    recent, lasting = _decays(max(0.0, now - seen.visited))
    by_recent = seen.recent * recent / (_SPANS[0] * -math.expm1(-age / _SPANS[0]))
    return (by_recent + seen.lasting * lasting / (_SPANS[1] * -math.expm1(-age / _SPANS[1]))) / 2


def _believed(usual: float, steady: float, days: int) -> float:
    """Visits a second: `usual` ones of an hour, seen on so many days, beside what is expected at any hour."""
    return (days * usual / _HOUR + _DOUBT * steady) / (days + _DOUBT)


def _days(seen: Seen, hour: int) -> int:
    return min(7, max(0, hour - int(seen.first // _HOUR)) // _DAY_HOURS)


def _usual(seen: Seen, hour: int) -> float:
    """Visits in this hour of the day, on average of the days that are known."""
    days = _days(seen, hour)
    return sum(seen.week[(hour - day * _DAY_HOURS) % HOURS] for day in range(1, days + 1)) / max(1, days)
