"""Requests that wait for a slot: bounded, and ordered by priority, by fair share, by arrival.

Priority is strict, but waiting raises it: after `patience` seconds a request counts as one class higher, so that
nothing waits for ever.
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

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def add(self, request: Request) -> None:
        self._requests[request.id] = request

    def remove(self, identifier: Hashable) -> Request | None:
        return self._requests.pop(identifier, None)

    def rank(self, request: Request, now: float) -> int:
        """Its class with what waiting has added."""
        return request.priority + int(max(now - request.arrived, 0.0) / self.patience)

    def in_order(self, shares: Shares, now: float) -> list[Request]:
        """Who is next first. What was parked goes before what never ran, within a tenant."""
        return sorted(
            self._requests.values(),
            key=lambda one: (
                -self.rank(one, now),
                shares.served(one.scope.tenant),
                not one.generated,
                one.arrived,
            ),
        )
