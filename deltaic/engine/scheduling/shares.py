"""Fair shares between tenants: a counter of what each was served, and the smallest goes first.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): a prompt token
counts 1, a generated one 2, and a tenant that comes back from doing nothing starts level with the least served of those
who are active, so that nobody saves up idle time.
"""

PROMPT_WEIGHT = 1.0
GENERATED_WEIGHT = 2.0


class Shares:
    """Counters of tenants that have requests here."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._requests: dict[str, int] = {}
        self._level = 0.0

    def join(self, tenant: str) -> None:
        """A request of the tenant came in."""
        if not self._requests.get(tenant):
            active = [self._served[each] for each in self._requests]
            self._served[tenant] = max(self._served.get(tenant, 0.0), min(active, default=self._level))
        self._requests[tenant] = self._requests.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """A request of the tenant ended. A tenant without requests is forgotten, but not the level it had reached."""
        self._requests[tenant] -= 1
        if not self._requests[tenant]:
            del self._requests[tenant]
            self._level = max(self._level, self._served.pop(tenant))

    def charge(self, tenant: str, *, prompt: int = 0, generated: int = 0) -> None:
        self._served[tenant] += PROMPT_WEIGHT * prompt + GENERATED_WEIGHT * generated

    def served(self, tenant: str) -> float:
        """Weighted tokens; only differences between tenants mean something."""
        return self._served[tenant]

    @property
    def tenants(self) -> int:
        """Tenants that have requests here."""
        return len(self._requests)
