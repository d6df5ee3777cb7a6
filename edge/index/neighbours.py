"""What a node's entry means to a neighbour that looks for a target."""

from collections.abc import Iterator

from deltaic.names import ChannelName, RevisionName
from edge.index.entries import Neighbour, NodeEntry, RevisionEntry


def matching(target: ChannelName | RevisionName, node: str, entry: NodeEntry) -> Iterator[Neighbour]:
    """What `node` has for `target`: the revision that was asked for, or the one that it answers the channel with."""
    for revision, shown in entry.revisions.items():
        if revision == target:
            wanted = shown.held or bool(shown.keys)
        else:
            wanted = isinstance(target, ChannelName) and str(target) in shown.keys
        if wanted:
            yield _seen(node, entry.address, revision, shown)


def _seen(node: str, address: str, revision: RevisionName, shown: RevisionEntry) -> Neighbour:
    return Neighbour(
        node,
        address,
        revision,
        loaded=bool(shown.keys),
        held=shown.held,
        running=shown.running,
        waiting=shown.waiting,
        slots=shown.slots,
        seconds_per_token=shown.seconds_per_token,
        prefixes=frozenset(shown.prefixes),
    )
