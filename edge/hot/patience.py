"""How long models stay, and how long requests wait for room."""

from collections.abc import Iterable
from dataclasses import dataclass

_LOOK_SECONDS = 1.0
"""How often a load that waits for room looks again when nothing was heard."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, but for `requests`.

    `residency`: that a model stays at least. `wait`: that a load waits for room before it is refused. `collate`: that a
    load waits before the models in its way take no further requests. `requests` may wait for one model at a time: those
    that its worker could not take at once it would refuse.
    """

    residency: float = 0.0
    collate: float = 0.0
    wait: float = 0.0
    requests: int = 1024

    def pause(self, now: float, arrived: float, until: float, ages: Iterable[float]) -> float:
        """Seconds until a load that `arrived` then and waits `until` then should look again, if nothing happens.

        `ages` are those of loaded models: when one is old enough, it may go.
        """
        ahead = [until - now, arrived + self.collate - now, *(self.residency - age for age in ages)]
        return min([_LOOK_SECONDS, *(seconds for seconds in ahead if seconds > 0)])
