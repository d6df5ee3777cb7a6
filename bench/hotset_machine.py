"""One edge, simulated: a budget of memory, a page cache, models that rest near and far. Policies are the edge's own."""

import random
from collections import OrderedDict
from dataclasses import dataclass

from hotset_trace import GB, Trace

from edge.hot.load_costs import START_SECONDS, Load, LoadCosts, Tier
from edge.hot.policy import HotPolicy, Model, Room, choose
from edge.hot.prefetch import likely
from edge.hot.rates import Rates
from edge.hot.rivals import CountLRU

# Bytes a second of the simulated machine; not what load_costs supposes before it has measured.
SPEEDS = {Tier.PAGE_CACHE: 2.2 * GB, Tier.DISK: 0.5 * GB, Tier.PEER: 0.11 * GB, Tier.CENTER: 0.025 * GB}
PREFETCH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes: for loaded models, and for files in the page cache beside them."""

    budget: int
    page_cache: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trace cost."""

    requests: int
    loads: int
    load_seconds: float
    """That requests waited for."""
    background_seconds: float = 0.0
    """Of loads that nobody waited for."""

    @property
    def seconds_a_request(self) -> float:
        return self.load_seconds / self.requests


class Files:
    """Where bytes are: in the page cache, which keeps files by last use, or at home."""

    def __init__(self, machine: Machine, trace: Trace) -> None:
        self._by_name = {model.name: model for model in trace.models}
        self._cache: OrderedDict[str, int] = OrderedDict()
        self._most = machine.page_cache

    def tier(self, name: str) -> Tier:
        return Tier.PAGE_CACHE if name in self._cache else Tier(self._by_name[name].home)

    def touch(self, name: str) -> None:
        """It was read, or its worker that had it mapped is gone."""
        if self._by_name[name].size > self._most:
            return
        self._cache[name] = self._by_name[name].size
        self._cache.move_to_end(name)
        while sum(self._cache.values()) > self._most:
            self._cache.popitem(last=False)


class Simulation:
    """One policy on one trace. A request for a model that is not loaded loads it and waits; nothing is turned away."""

    def __init__(self, trace: Trace, machine: Machine, policy: HotPolicy, seed: int) -> None:
        self._trace, self._machine, self._policy = trace, machine, policy
        self._files = Files(machine, trace)
        self._costs = LoadCosts()
        self._noise = random.Random(seed)
        self._models = {model.name: model for model in trace.models}
        self._loaded: dict[str, float] = {}
        self._taken = 0
        self._loads, self._waited, self._background = 0, 0.0, 0.0

    def run(self, rates: Rates | None = None) -> Outcome:
        """With `rates`, free room is filled between requests as the edge's prefetch does. Raises ValueError."""
        looked = 0.0
        for now, name in self._trace.requests:
            if rates is not None and now >= looked + PREFETCH_SECONDS:
                looked = now
                self._prefetch(rates, now)
            self._policy.used(name, now)
            if name not in self._loaded:
                self._make_room(name, now)
                self._waited += self._load(name, now)
                self._loads += 1
        return Outcome(len(self._trace.requests), self._loads, self._waited, self._background)

    def _prefetch(self, rates: Rates, now: float) -> None:
        absent = [self._model(name, now) for name in self._models if name not in self._loaded]
        model = likely(rates, absent, Room(self._machine.budget - self._taken), now)
        if model is not None:
            self._background += self._load(model.name, now)

    def _make_room(self, name: str, now: float) -> None:
        loaded = [self._model(each, now) for each in self._loaded]
        choice = choose(self._policy, self._model(name, now), loaded, Room(self._machine.budget - self._taken), now)
        if choice.victims is None:
            raise ValueError(f"{name} does not fit into {self._machine.budget:,} bytes")
        victims = choice.victims
        if isinstance(self._policy, CountLRU) and not victims:
            victims = self._policy.victims(loaded, Room(), now)
        for victim in victims:
            del self._loaded[victim]
            self._taken -= self._models[victim].size
            self._files.touch(victim)
            self._policy.gone(victim)

    def _load(self, name: str, now: float) -> float:
        size, tier = self._models[name].size, self._files.tier(name)
        seconds = (START_SECONDS + size / SPEEDS[tier]) * self._noise.lognormvariate(0, 0.15)
        self._costs.measured(Load(name, size, tier, seconds))
        self._files.touch(name)
        self._loaded[name] = now
        self._taken += size
        if self._taken > self._machine.budget:
            raise ValueError(f"the policy exceeded its budget: {self._taken:,}")
        self._policy.loaded(self._model(name, now), now)
        return seconds

    def _model(self, name: str, now: float) -> Model:
        model = self._models[name]
        seconds = self._costs.to_return(name, model.size, Tier(model.home))
        return Model(name, Room(model.size), seconds, self._loaded.get(name, now))
