"""How many seconds a load takes, by where the bytes are: measured, and sensibly guessed until then."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

MOST = 512
"""Models whose own loads are remembered."""
START_SECONDS = 0.7
"""A process, its libraries, a first token: what a load takes however few the bytes."""
_NEWEST = 0.3
"""What the newest load counts in the average."""
_MIB = 1 << 20


class Tier(StrEnum):
    """Where the bytes of a model that is not loaded are, the nearest first."""

    PAGE_CACHE = "page_cache"
    DISK = "disk"
    PEER = "peer"
    CENTER = "center"


_PRIORS = {
    Tier.PAGE_CACHE: 1500.0 * _MIB,
    Tier.DISK: 250.0 * _MIB,
    Tier.PEER: 80.0 * _MIB,
    Tier.CENTER: 10.0 * _MIB,
}
"""Bytes a second: memory, a plain SSD, a local network, a branch's line."""


@dataclass(frozen=True, slots=True)
class Load:
    """One load that happened."""

    name: str
    size: int
    tier: Tier
    seconds: float


class LoadCosts:
    """Averages by tier, and of each model by tier. Not for several threads."""

    def __init__(self) -> None:
        self._rates: dict[Tier, float] = dict(_PRIORS)
        self._own: OrderedDict[tuple[str, Tier], float] = OrderedDict()

    def measured(self, load: Load) -> None:
        """Learn from one load. One that took no time, or of no bytes, says nothing."""
        if load.seconds <= 0 or load.size <= 0 or not math.isfinite(load.seconds):
            return
        moving = max(load.seconds - START_SECONDS, load.seconds / 10)
        # An average of logarithms: one load that hung does not make its tier look broken.
        older = math.log(self._rates[load.tier])
        self._rates[load.tier] = math.exp(older + _NEWEST * (math.log(load.size / moving) - older))
        key = (load.name, load.tier)
        before = self._own.pop(key, load.seconds)
        self._own[key] = before + _NEWEST * (load.seconds - before)
        if len(self._own) > MOST:
            self._own.popitem(last=False)

    def seconds(self, name: str, size: int, tier: Tier) -> float:
        """What loading it from there would take: as it took before, or as others of the tier do."""
        return self._own.get((name, tier)) or START_SECONDS + size / self._rates[tier]

    def to_return(self, name: str, size: int, home: Tier) -> float:
        """What loading it again will take once it has gone: the page cache may or may not have it still."""
        return (self.seconds(name, size, Tier.PAGE_CACHE) + self.seconds(name, size, home)) / 2

    def dump(self) -> dict[str, object]:
        """What a restart needs, as JSON can hold it."""
        own = [[name, str(tier), round(seconds, 4)] for (name, tier), seconds in self._own.items()]
        return {"bytes_per_second": {str(tier): round(rate) for tier, rate in self._rates.items()}, "own": own}

    def restore(self, dumped: object) -> None:
        """Take what `dump` gave. Raises ValueError, TypeError or KeyError for anything else, and changes nothing."""
        if not isinstance(dumped, dict):
            raise TypeError("load costs are an object")
        rates = {tier: _positive(dumped["bytes_per_second"][str(tier)]) for tier in Tier}
        own = {(str(name), Tier(tier)): _positive(seconds) for name, tier, seconds in dumped["own"][-MOST:]}
        self._rates, self._own = rates, OrderedDict(own)


def _positive(value: object) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"not a measurement: {value!r}")
    return number
