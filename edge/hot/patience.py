"""How long models stay, and how long requests wait for room."""

from dataclasses import dataclass


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
