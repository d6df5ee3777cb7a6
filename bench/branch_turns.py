"""The arithmetic of the branch bench: round trips, who answered, what a load drew. Pure."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate


class Turns:
    """Counts round trips of one connection: what the client says after the server has last said something is one."""

    def __init__(self) -> None:
        self._server_spoke_last = True
        self.count = 0
        self.transacts = False
        """Whether the client has ever begun a transaction."""

    def saw(self, data: bytes, *, asks: bool) -> None:
        """Take in bytes of one direction; `asks` says that they come from the client."""
        self.count += asks and self._server_spoke_last
        self.transacts |= asks and b"\r\nMULTI\r\n" in data
        self._server_spoke_last = not asks


@dataclass(frozen=True, slots=True)
class Popular:
    """Draws names, the first most often: the n-th weighs 1/n^skew (Zipf)."""

    names: Sequence[str]
    skew: float = 0.8

    def draw(self, dice: random.Random) -> str:
        weights = [1 / (place + 1) ** self.skew for place in range(len(self.names))]
        return dice.choices(self.names, cum_weights=list(accumulate(weights)))[0]


@dataclass(slots=True)
class Outcomes:
    """What became of the requests of a load."""

    by_node: Counter[str] = field(default_factory=Counter)
    """Name of the node that answered -> requests."""
    in_branch: int = 0
    elsewhere: int = 0
    """Requests that another edge answered than the one that was asked."""
    failures: Counter[str] = field(default_factory=Counter)
    """`model: CODE REASON` -> requests."""
    seconds: list[float] = field(default_factory=list)
    """Of each answered request, from connecting to its end."""

    @property
    def answered(self) -> int:
        return sum(self.by_node.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def branch_share(self) -> float:
        """Of all requests, failed ones included, those that an edge answered: 0 to 1. Raises ValueError for none."""
        if not self.answered + self.failed:
            raise ValueError("no request was made")
        return self.in_branch / (self.answered + self.failed)

    def named(self, most: int = 5) -> str:
        """The failures in words, the most frequent first."""
        return "; ".join(f"{count} times {what}" for what, count in self.failures.most_common(most))
