"""NodeStatus: this edge in full, put together from what its parts say of themselves."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deltaic.engine.host import Served
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import fleet_pb2
from edge.hot.policy import Room
from edge.operation.counts import Counts
from edge.operation.door import Door
from edge.operation.health import Readiness
from edge.operation.watches import LineWatch
from edge.spool.spool import Spool


class HotModels(Protocol):
    """What the hot set says of itself. One that decides by policy also has `why(revision) -> str`."""

    @property
    def budget(self) -> Room: ...

    def keys(self) -> dict[str, RevisionName]: ...

    def serving(self) -> list[Served]: ...

    def leases(self) -> dict[RevisionName, int]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a status is read from. `held` gives revisions on the disk and the bytes of their files."""

    report: Callable[[], fleet_pb2.NodeReport]
    hot: HotModels
    held: Callable[[], Mapping[RevisionName, int]]
    followed: Callable[[], Sequence[ChannelName]]
    door: Door
    readiness: Callable[[], Readiness]
    counts: Counts
    line: LineWatch
    spool: Spool
    upstream: str
    """Its name as a source."""
    address: str
    """Where it is."""
    started: float
    """Seconds since the epoch."""


def status_of(parts: Sources) -> fleet_pb2.NodeStatus:
    """As of now."""
    ready = parts.readiness()
    status = fleet_pb2.NodeStatus(
        report=parts.report(),
        serving=ready.serving,
        reasons=ready.reasons,
        draining=parts.door.draining,
        in_flight=parts.door.in_flight,
        held=_held(parts),
        hot_bytes=hot_bytes(parts.hot),
        hot_budget_bytes=parts.hot.budget.ram,
        places=parts.counts.places(),
        fetched=parts.counts.fetched(parts.upstream),
        line=fleet_pb2.LineStatus(upstream=parts.address, up=bool(parts.line.up)),
        spool=spool_status(parts.spool),
    )
    status.start_time.FromMicroseconds(int(parts.started * 1e6))
    if parts.line.up is not None:
        status.line.since.FromMicroseconds(int(parts.line.since * 1e6))
    return status


def hot_bytes(hot: HotModels) -> int:
    """Bytes of memory of what is loaded; names that share a worker count once."""
    return sum({served.revision: served.memory_bytes for served in hot.serving()}.values())


def spool_status(spool: Spool) -> fleet_pb2.SpoolStatus:
    return fleet_pb2.SpoolStatus(
        entries=spool.entries,
        bytes=spool.bytes,
        budget_bytes=spool.budget_bytes,
        last_sequence=spool.last,
        delivered_sequence=spool.delivered,
        lost=spool.lost,
    )


def _held(parts: Sources) -> list[fleet_pb2.HeldModel]:
    followed = {str(channel) for channel in parts.followed()}
    channels: defaultdict[RevisionName, list[str]] = defaultdict(list)
    for key, revision in parts.hot.keys().items():
        if key in followed:
            channels[revision].append(key)
    memory = {served.revision: served.memory_bytes for served in parts.hot.serving()}
    leases, files = parts.hot.leases(), parts.held()
    return [
        fleet_pb2.HeldModel(
            revision=str(revision),
            file_bytes=files.get(revision, 0),
            loaded=revision in memory,
            pinned=bool(channels[revision]),
            memory_bytes=memory.get(revision, 0),
            leases=leases.get(revision, 0),
            why=_why(parts.hot, revision, channels[revision], loaded=revision in memory),
            channels=sorted(channels[revision]),
        )
        for revision in sorted({*files, *memory}, key=str)
    ]


def _why(hot: HotModels, revision: RevisionName, channels: Sequence[str], *, loaded: bool) -> str:
    """The policy's own words, where it has some."""
    said = getattr(hot, "why", None)
    if said is not None and (words := str(said(revision))):
        return words
    if channels:
        return f"followed as {', '.join(sorted(ChannelName.parse(each).channel for each in channels))}"
    return "loaded for requests" if loaded else "on the disk, loaded when it is asked for"
