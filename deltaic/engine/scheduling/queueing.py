"""Requests that wait for a slot, ordered by priority, by fair share, by arrival.

Priority is strict, but a class that waits rises: for every `patience` seconds without a turn it counts as one class
higher, so that nothing waits for ever. Within a class the tenant that was served least comes first.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from deltaic.engine.scheduling.request import Request
from deltaic.engine.scheduling.shares import Shares


@dataclass(slots=True)
class Waiting:
    """In no order of their own: who is next depends on the time and on what tenants were served."""

    patience: float
    _requests: dict[Hashable, Request] = field(default_factory=dict)
    _last_turn: dict[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def add(self, request: Request) -> None:
        self._requests[request.id] = request

    def remove(self, identifier: Hashable) -> Request | None:
        return self._requests.pop(identifier, None)

    def take(self, request: Request, now: float) -> None:
        """The request gets a slot: its class had its turn."""
        del self._requests[request.id]
        self._last_turn[request.priority] = now

    def in_order(self, shares: Shares, now: float) -> list[Request]:
        """Who is next first. What was parked goes before what never ran, within a tenant."""
        ranks = self._ranks(now)
        return sorted(
            self._requests.values(),
            key=lambda one: (
                -ranks[one.priority],
                one.priority,  # a class that has risen goes before the one that it has reached
                shares.served(one.scope.tenant),
                not one.generated,
                one.arrived,
            ),
        )

    def _ranks(self, now: float) -> dict[int, int]:
        """Each class with what waiting has added."""
        since: dict[int, float] = {}
        for request in self._requests.values():
            since[request.priority] = min(since.get(request.priority, now), request.arrived)
        return {
            priority: priority + int((now - max(oldest, self._last_turn.get(priority, oldest))) / self.patience)
            for priority, oldest in since.items()
        }
