"""Circuit breakers: a place that failed again and again is left alone for a while, then tried with one request.

    closed ──failures in a row──> open ──its seconds pass──> half-open ──one request succeeds──> closed
                                    ^                            │
                                    └──────── it fails ──────────┘      each time for twice as long

Pure: `now` is an argument, in seconds of a clock that never runs backwards.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

MOST_PLACES = 1_000


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how many seconds at first and at most."""

    failures: int = 3
    first_seconds: float = 0.5
    longest_seconds: float = 10.0


class Breaker:
    """Of one place. Whoever asks it `begin` says `succeeded`, `failed` or `left` afterwards, once."""

    def __init__(self, limits: BreakerLimits = BreakerLimits()) -> None:  # frozen
        self._limits = limits
        self._failures = 0
        self._seconds = limits.first_seconds
        self._open_until: float | None = None
        self._trying = False

    def state(self, now: float) -> State:
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a request may begin: always while closed, one at a time while half-open."""
        match self.state(now):
            case State.CLOSED:
                return True
            case State.HALF_OPEN:
                return not self._trying
            case State.OPEN:
                return False

    def begin(self, now: float) -> bool:
        """Begin a request if it may; whether it may."""
        if not self.allows(now):
            return False
        self._trying = self.state(now) is State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """The place lives: whatever was begun when, it is closed."""
        self._failures, self._seconds, self._open_until, self._trying = 0, self._limits.first_seconds, None, False

    def failed(self, now: float) -> None:
        """The place did not answer. Requests that were under way when it opened do not prolong it."""
        match self.state(now):
            case State.CLOSED:
                self._failures += 1
                if self._failures >= self._limits.failures:
                    self._open_until = now + self._seconds
            case State.HALF_OPEN:
                self._seconds = min(2 * self._seconds, self._limits.longest_seconds)
                self._open_until = now + self._seconds
        self._trying = False

    def left(self) -> None:
        """The caller went away before anything was known."""
        self._trying = False


class Breakers:
    """One for each place, made at its first failure; the ones unused for longest go when there are MOST_PLACES."""

    def __init__(self, limits: BreakerLimits = BreakerLimits()) -> None:  # frozen
        self._limits = limits
        self._of: OrderedDict[str, Breaker] = OrderedDict()

    def __getitem__(self, place: str) -> Breaker:
        breaker = self._of.setdefault(place, Breaker(self._limits))
        self._of.move_to_end(place)
        if len(self._of) > MOST_PLACES:
            self._of.popitem(last=False)
        return breaker

    def allows(self, place: str, now: float) -> bool:
        return place not in self._of or self._of[place].allows(now)

    def states(self, now: float) -> dict[str, State]:
        """Of all places that were tried."""
        return {place: breaker.state(now) for place, breaker in self._of.items()}
