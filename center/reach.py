"""Reachability: what keeps a revision from collection. Pure: the facts come as values, and so does the time.

A revision is kept by a channel that names it or named it lately, by a tag, by a node that serves it or is on its way to
it, and for a while by its own publishing, since the channel moves in another call.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deltaic.names import ChannelName, RevisionName, TagName

MOST_NAMED = 20


class KeeperKind(StrEnum):
    """The reasons to keep a revision."""

    CHANNEL = "channel"
    PREVIOUS = "previous"
    TAG = "tag"
    NODE = "node"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class Keeper:
    """One reason; `name` is the channel's, the tag's or the node's."""

    kind: KeeperKind
    name: str = ""


@dataclass(slots=True)
class Keepers:
    """All reasons for one revision: how many, and the first 20 of them, since a fleet may have many thousand nodes."""

    named: tuple[Keeper, ...] = ()
    count: int = 0

    def add(self, keeper: Keeper) -> None:
        self.count += 1
        if len(self.named) < MOST_NAMED:
            self.named = (*self.named, keeper)


@dataclass(frozen=True, slots=True)
class NodeUse:
    """Which revisions a node named in its last report, written at `time_us`."""

    node: str
    time_us: int
    revisions: frozenset[RevisionName]


@dataclass(frozen=True, slots=True)
class Roots:
    """Everything that may keep one of `revisions`. Times in microseconds since 1970."""

    revisions: Mapping[RevisionName, int]
    """When each was published last."""
    channels: Mapping[ChannelName, Sequence[RevisionName]]
    """The revisions that a channel has named, each once, the present one first, the one left longest ago last."""
    tags: Mapping[TagName, RevisionName]
    uses: Iterable[NodeUse]


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """How long, in microseconds, and how many: the settings of a center."""

    previous: int
    """Revisions to keep behind each channel, beside the present one."""
    lease_us: int
    """How long a node's last report counts."""
    grace_us: int
    """How long a publish counts."""


def keepers_of(roots: Roots, policy: KeepPolicy, now_us: int) -> dict[RevisionName, Keepers]:
    """What keeps each of the revisions; those without a keeper may be collected. A time to come counts as now."""
    kept = {name: Keepers() for name in roots.revisions}
    for name, keeper in _reasons(roots, policy, now_us):
        if name in kept:
            kept[name].add(keeper)
    return kept


def _reasons(roots: Roots, policy: KeepPolicy, now_us: int) -> Iterator[tuple[RevisionName, Keeper]]:
    for channel, named in roots.channels.items():
        for place, name in enumerate(named[: 1 + policy.previous]):
            yield name, Keeper(KeeperKind.PREVIOUS if place else KeeperKind.CHANNEL, str(channel))
    for tag, name in roots.tags.items():
        yield name, Keeper(KeeperKind.TAG, str(tag))
    for name, published_us in roots.revisions.items():
        if now_us - published_us < policy.grace_us:
            yield name, Keeper(KeeperKind.PUBLISH)
    for use in roots.uses:
        if now_us - use.time_us < policy.lease_us:
            for name in use.revisions:
                yield name, Keeper(KeeperKind.NODE, use.node)
