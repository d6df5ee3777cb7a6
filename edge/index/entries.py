"""What is said in an index: by a node of itself, and of its neighbours to a node that asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deltaic.names import RevisionName


@dataclass(frozen=True, slots=True)
class RevisionEntry:
    """What a node has of one revision.

    `keys` are the channels and revisions, by their full names, that its worker answers; none: not loaded. `leases` are
    requests that use it at this moment. `prefixes` are digests of prompt beginnings that its worker has read of late.
    """

    held: bool = False
    keys: tuple[str, ...] = ()
    leases: int = 0
    running: int = 0
    waiting: int = 0
    slots: int = 0
    seconds_per_token: float = 0.0
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What a node shows of itself; `address` is HOST:PORT, where its neighbours reach it over gRPC, or empty."""

    address: str = ""
    revisions: Mapping[RevisionName, RevisionEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What another node of the branch said of one revision, at most NODE_TTL seconds ago. Others can write it: it is
    advice, and whatever is done with it is checked there.

    `loaded`: a worker answers with it; `held`: its file is complete there. `seconds_per_token` is 0 where not known.
    """

    node: str
    address: str
    revision: RevisionName
    loaded: bool
    held: bool
    running: int = 0
    waiting: int = 0
    slots: int = 0
    seconds_per_token: float = 0.0
    prefixes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lease:
    """Ours. `token` is larger than that of every lease of this name before: who guards a thing with it refuses less."""

    name: str
    token: int


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """Another's, for `seconds` more unless renewed."""

    name: str
    node: str
    seconds: float
