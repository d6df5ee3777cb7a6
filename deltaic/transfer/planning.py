"""The way from what a node holds to what it wants, priced in bytes. Pure: manifests in, a plan out."""

from collections.abc import Sequence
from dataclasses import dataclass

from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Plan:
    """What to take from where."""

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


def _size(digests: set[Digest]) -> int:
    return sum(digest.size for digest in digests)
