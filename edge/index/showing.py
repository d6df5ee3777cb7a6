"""What this edge shows of itself in the index."""

from deltaic.runtime.addresses import host_and_port
from deltaic.v1 import worker_pb2
from edge.index.entries import RevisionEntry

_WILDCARDS = frozenset({"", "0.0.0.0", "[::]", "*"})  # noqa: S104  # named here so that they are not shown


def advertised(advertise: str, listen: str, port: int) -> str:
    """HOST:PORT where neighbours reach this edge; empty when nothing says which of its addresses that is.

    `port` is the one that `listen` came to be. A socket of one machine is no address for others.
    """
    if advertise or listen.startswith(("unix:", "unix-abstract:")):
        return advertise
    host, _ = host_and_port(listen)
    return "" if host in _WILDCARDS or not port else f"{host}:{port}"


def shown(
    *,
    held: bool,
    keys: tuple[str, ...],
    leases: int,
    beat: worker_pb2.HeartbeatResponse | None,
    prefixes: tuple[str, ...],
) -> RevisionEntry:
    """`beat` is the last heartbeat of the revision's worker, where it has one."""
    if beat is None or not keys:
        return RevisionEntry(held, keys, leases)
    between = beat.times.inter_token
    seconds = between.sum / tokens if (tokens := sum(between.counts)) else 0.0
    return RevisionEntry(held, keys, leases, beat.running, beat.waiting, beat.slots, seconds, prefixes)
