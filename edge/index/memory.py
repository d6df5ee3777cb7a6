"""An index in this process: what a single edge needs, and what tests and simulations of a branch run on."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from deltaic.names import ChannelName, RevisionName
from edge.index.entries import Lease, LeaseHeld, Neighbour, NodeEntry
from edge.index.neighbours import matching
from edge.index.rates import rate, recent
from edge.index.shares import Shares
from edge.statistics import RequestStatistics

_DEFAULT_BYTES = 64 << 20


@dataclass(slots=True)
class _Shown:
    entry: Callable[[], NodeEntry]
    shares: Shares
    statistics: RequestStatistics


@dataclass(slots=True)
class MemoryBranch:
    """What the nodes of one branch share. `clock` gives seconds since the epoch, `most_bytes` bounds stored values."""

    clock: Callable[[], float] = time.time
    most_bytes: int = _DEFAULT_BYTES
    nodes: dict[str, _Shown] = field(default_factory=dict)
    values: OrderedDict[tuple[RevisionName, str], bytes] = field(default_factory=OrderedDict)
    leases: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    tokens: int = 0


class MemoryIndex:
    """One node of a `MemoryBranch`."""

    def __init__(self, branch: MemoryBranch, node: str, statistics: RequestStatistics) -> None:
        self._branch = branch
        self._node = node
        self._statistics = statistics
        self._shares = Shares(branch.clock)

    @property
    def up(self) -> bool:
        return True

    @asynccontextmanager
    async def running(self, entry: Callable[[], NodeEntry]) -> AsyncIterator["MemoryIndex"]:
        self._branch.nodes[self._node] = _Shown(entry, self._shares, self._statistics)
        try:
            yield self
        finally:
            del self._branch.nodes[self._node]

    def changed(self) -> None:
        """Nothing to do: the others see the truth itself."""

    async def neighbours(self, target: ChannelName | RevisionName) -> tuple[Neighbour, ...]:
        others = sorted((node, shown) for node, shown in self._branch.nodes.items() if node != self._node)
        return tuple(found for node, shown in others for found in matching(target, node, shown.entry()))

    async def rates(self, models: Collection[str]) -> Mapping[str, float]:
        now = self._branch.clock()
        counted = dict.fromkeys(models, 0)
        for shown in self._branch.nodes.values():
            for model in counted:
                counted[model] += recent(shown.statistics.minutes(model), now)
        return {model: rate(count, now) for model, count in counted.items()}

    def count_served(self, tenant: str, tokens: int) -> None:
        self._shares.count(tenant, tokens)

    async def served(self, tenants: Collection[str]) -> Mapping[str, float]:
        return {tenant: sum(shown.shares.of(tenant) for shown in self._branch.nodes.values()) for tenant in tenants}

    async def cached(self, revision: RevisionName, key: str) -> bytes | None:
        return self._branch.values.get((revision, key))

    def store(self, revision: RevisionName, key: str, value: bytes) -> None:
        values = self._branch.values
        values.pop((revision, key), None)
        if len(value) > self._branch.most_bytes:
            return
        values[revision, key] = value
        while sum(map(len, values.values())) > self._branch.most_bytes:
            values.popitem(last=False)

    def drop_revision(self, revision: RevisionName) -> None:
        for node, shown in self._branch.nodes.items():
            if node != self._node and any(matching(revision, node, shown.entry())):
                return
        for place in [place for place in self._branch.values if place[0] == revision]:
            del self._branch.values[place]

    async def lease(self, name: str, seconds: float) -> Lease | LeaseHeld | None:
        now = self._branch.clock()
        holder, _, until = self._branch.leases.get(name, ("", 0, 0.0))
        if holder not in ("", self._node) and until > now:
            return LeaseHeld(name, holder, until - now)
        self._branch.tokens += 1
        self._branch.leases[name] = (self._node, self._branch.tokens, now + seconds)
        return Lease(name, self._branch.tokens)

    async def release(self, lease: Lease) -> None:
        if self._branch.leases.get(lease.name, ("", 0, 0.0))[:2] == (self._node, lease.token):
            del self._branch.leases[lease.name]
