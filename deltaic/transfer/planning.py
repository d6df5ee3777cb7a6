"""The way from what a node holds to what it wants, priced in bytes, memory and time. Pure: manifests and deltas in,
a plan out. The same question always has the same answer, whatever the order of what is held and of the deltas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from deltaic.store.delta_records import DeltaRecord
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

MAX_CHAIN = 3
"""Deltas in a row; every one but the last makes a whole file that is only needed for the next."""
_USUAL_LINK = 12_500_000
_USUAL_APPLY = 100_000_000
"""Bytes a second, for estimates where a node does not say."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to take from where, by chunks alone."""

    reuse_from: tuple[str, ...]
    """Held revisions ("sha256:hex") to take chunks from, the most useful first; useless ones are left out."""
    reuse_bytes: int
    """Bytes of the wanted files that those already hold; a chunk that occurs twice counts twice."""
    fetch_bytes: int
    """Bytes of the chunks to fetch, before compression; each is fetched once, however often it occurs."""
    fetch_chunks: int


def plan_update(want: Manifest, have: Sequence[Manifest]) -> Plan:
    """The cheapest way to `want` by chunks. `have` are complete, verified revisions, in any order."""
    occurrences: dict[Digest, int] = {}
    for chunk in want.chunks:
        occurrences[chunk.digest] = occurrences.get(chunk.digest, 0) + 1
    wanted = set(occurrences)
    remaining = {held.revision: {chunk.digest for chunk in held.chunks} & wanted for held in have}
    chosen: list[str] = []
    found: set[Digest] = set()
    while remaining:
        # Greedy: the revision that adds most. Ties go to the smaller name, so that every node plans alike.
        best = min(remaining, key=lambda name: (-_size(remaining[name] - found), name))
        gain = remaining.pop(best) - found
        if not gain:
            break
        chosen.append(best)
        found |= gain
    missing = wanted - found
    reuse_bytes = sum(digest.size * occurrences[digest] for digest in found)
    return Plan(tuple(chosen), reuse_bytes, _size(missing), len(missing))


class Method(StrEnum):
    """How a step gets on."""

    REUSE_CHUNKS = "reuse chunks"
    DELTA = "delta"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node can spend; 0 means unknown, or no limit. Rates in bytes a second, `wait_seconds` for the answer."""

    link_bytes_per_second: int = 0
    memory_bytes: int = 0
    apply_bytes_per_second: int = 0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `source` and `target` are manifests of revisions, `source` None where chunks are fetched."""

    method: Method
    source: Digest | None
    target: Digest
    delta: Digest | None = None
    fetch_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """The cheapest way: `chunks` is what it would be without deltas, `steps` what it is."""

    chunks: Plan
    steps: tuple[Step, ...]

    @property
    def fetch_bytes(self) -> int:
        return sum(step.fetch_bytes for step in self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def deltas(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.method is Method.DELTA)


@dataclass(frozen=True, slots=True, order=True)
class _Way:
    """A chain of deltas that ends at one revision. Ways are compared by price, then by the names on them."""

    price: tuple[float, float, int]
    names: tuple[str, ...]
    deltas: tuple[DeltaRecord, ...] = field(compare=False, default=())


def price_update(
    want: Manifest, have: Sequence[Manifest], deltas: Sequence[DeltaRecord], limits: Limits | None = None
) -> PricedPlan:
    """The cheapest way to `want` by chunks or by at most three of the deltas.

    Cheapest is quickest where the link's rate is known, else fewest bytes. Deltas are taken only if they cost less than
    the chunks would, neither bring more bytes than those, nor need more memory than there is.
    """
    limits = limits or Limits()
    chunks = plan_update(want, have)
    by_revision = {held.revision: held.digest for held in have}
    reuse = [Step(Method.REUSE_CHUNKS, by_revision[name], want.digest) for name in chunks.reuse_from]
    whole = Step(Method.CHUNKS, None, want.digest, None, chunks.fetch_bytes, 0, _line(chunks.fetch_bytes, limits))
    by_chunks = (*reuse, whole) if chunks.fetch_chunks else tuple(reuse)
    way = _cheapest_way(want.digest, {held.digest for held in have}, deltas, limits)
    if way is None:
        return PricedPlan(chunks, by_chunks)
    steps = [_delta_step(record, want.digest, limits) for record in way.deltas]
    if way.price[:2] >= _price(whole, limits)[:2] or sum(step.fetch_bytes for step in steps) > chunks.fetch_bytes:
        return PricedPlan(chunks, by_chunks)
    return PricedPlan(chunks, (*reuse, *steps))


def _cheapest_way(want: Digest, have: set[Digest], deltas: Sequence[DeltaRecord], limits: Limits) -> "_Way | None":
    """Shortest paths of at most three steps; nothing but the end costs what it costs on the way there."""
    usable = [each for each in deltas if not limits.memory_bytes or each.memory_bytes <= limits.memory_bytes]
    best: dict[Digest, _Way] = {digest: _Way((0.0, 0.0, 0), (digest.hex,)) for digest in have - {want}}
    for _ in range(MAX_CHAIN):
        reached = dict(best)
        for record in usable:
            way = best.get(record.pair.source)
            if way is None or record.pair.target in have:
                continue
            longer = _extended(way, record, want, limits)
            if record.pair.target not in reached or longer < reached[record.pair.target]:
                reached[record.pair.target] = longer
        best = reached
    return best.get(want)


def _extended(way: _Way, record: DeltaRecord, want: Digest, limits: Limits) -> _Way:
    more = _price(_delta_step(record, want, limits), limits)
    price = (way.price[0] + more[0], way.price[1] + more[1], way.price[2] + more[2])
    return _Way(price, (*way.names, record.index.hex, record.pair.target.hex), (*way.deltas, record))


def _delta_step(record: DeltaRecord, want: Digest, limits: Limits) -> Step:
    """A revision on the way needs its manifest too; that of the one wanted comes in any case."""
    fetch = record.size + (record.pair.target.size if record.pair.target != want else 0)
    seconds = _line(fetch, limits) + record.target_bytes / (limits.apply_bytes_per_second or _USUAL_APPLY)
    return Step(Method.DELTA, record.pair.source, record.pair.target, record.index, fetch, record.memory_bytes, seconds)


def _price(step: Step, limits: Limits) -> tuple[float, float, int]:
    if limits.link_bytes_per_second:
        return step.seconds, step.fetch_bytes, 1
    return step.fetch_bytes, step.seconds, 1


def _line(count: int, limits: Limits) -> float:
    return count / (limits.link_bytes_per_second or _USUAL_LINK)


def _size(digests: set[Digest]) -> int:
    return sum(digest.size for digest in digests)
