"""What is to be done to the memory of slots before a step, one after the other in the order given."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Save:
    """Copy the state of a slot out of it, under the number `kept`."""

    kept: int
    slot: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a stored state."""

    kept: int


@dataclass(frozen=True, slots=True)
class Place:
    """Give `slot` to a request, with the state of its first `tokens` tokens.

    They are in the slot already, or come from the stored state `kept`, or from another slot `source`. Whatever else the
    slot held is forgotten. The executor says by `Scheduler.placed` how many tokens there really are.
    """

    request: Hashable
    slot: int
    tokens: int = 0
    kept: int | None = None
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget all that a slot holds."""

    slot: int


Move = Save | Drop | Place | Clear
