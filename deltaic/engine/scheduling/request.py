"""One request inside the scheduler: its tokens, how many of them are in a slot, and what it may still use."""

from collections.abc import Hashable
from dataclasses import dataclass, field

Adapters = tuple[tuple[str, float], ...]
"""LoRA adapters by name with their strength. Requests with the same ones can share a decode call."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Who may reuse whose state: nobody but the same tenant, and only under the same adapters."""

    tenant: str = ""
    adapters: Adapters = ()


@dataclass(slots=True, eq=False)
class Request:
    """`budget` is the most tokens that it may generate; `deadline` and `arrived` are seconds on the caller's clock.

    `priority` is 1 (low), 2 (normal) or 3 (high).
    """

    id: Hashable
    prompt: tuple[int, ...]
    budget: int
    arrived: float = 0.0
    deadline: float = float("inf")
    priority: int = 2
    scope: Scope = field(default_factory=Scope)
    tokens: list[int] = field(init=False)
    fed: int = 0
    slot: int = -1
    cached: int = 0
    since_admitted: int = 0
    reads_long: bool = False
    """Whether it had much to read when it got its slot: then it goes on in chunks to the end."""
    charged: bool = False
    parked: int | None = None
    """The stored state that it goes on from, while it is set aside."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.prompt)

    @property
    def unread(self) -> int:
        """Tokens that are not in the slot yet; 1 while it decodes."""
        return len(self.tokens) - self.fed

    @property
    def left(self) -> int:
        """Tokens that it may still generate."""
        return max(self.budget - self.generated, 0)
