"""The catalog as collection sees it: which revisions are kept by what, and the removal of those that nothing keeps.

One model at a time, so that memory is bounded by the model with the most revisions, and each in one transaction: what
is decided on is what is removed, whatever channels and tags move meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from center import audit_log, rows, tables
from center.catalog import now_us
from center.database import Database
from center.reach import KeeperKind, Keepers, KeepPolicy, NodeUse, Roots, keepers_of
from center.records import Revision
from deltaic.errors import BadName
from deltaic.names import ChannelName, RevisionName, TagName
from deltaic.v1 import fleet_pb2, registry_pb2

_REPORTS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Fate:
    """What a collection makes of one revision."""

    revision: Revision
    keepers: Keepers

    @property
    def is_kept(self) -> bool:
        return self.keepers.count > 0

    def to_proto(self) -> registry_pb2.RevisionFate:
        named = [registry_pb2.Keeper(kind=_KINDS[each.kind], name=each.name) for each in self.keepers.named]
        return registry_pb2.RevisionFate(
            revision=self.revision.to_proto(), keepers=named, keeper_count=self.keepers.count
        )


_KINDS = {
    KeeperKind.CHANNEL: registry_pb2.Keeper.KIND_CHANNEL,
    KeeperKind.PREVIOUS: registry_pb2.Keeper.KIND_PREVIOUS,
    KeeperKind.TAG: registry_pb2.Keeper.KIND_TAG,
    KeeperKind.NODE: registry_pb2.Keeper.KIND_NODE,
    KeeperKind.PUBLISH: registry_pb2.Keeper.KIND_PUBLISH,
}


class Library:
    """Blocks: call it from a thread. `clock` gives microseconds since 1970 UTC."""

    def __init__(self, database: Database, policy: KeepPolicy, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock

    def catalog_id(self) -> str:
        """The UUID of this catalog, made with it."""
        with self._database.reading() as connection:
            return str(connection.execute(select(tables.catalog_id.c.id)).scalar_one())

    def models(self) -> list[str]:
        """The names of all models, in order."""
        with self._database.reading() as connection:
            return list(connection.execute(select(tables.models.c.model).order_by(tables.models.c.model)).scalars())

    def judge(self, model: str) -> list[Fate]:
        """The fate that each revision of a model would have now, the oldest first. Changes nothing."""
        with self._database.reading() as connection:
            return self._fates(connection, model, self._clock())

    def collect(self, model: str, *, actor: str) -> list[Fate]:
        """Judge, and in the same transaction remove from the catalog what nothing keeps, with an audit entry each."""
        now = self._clock()
        with self._database.writing() as connection:
            audit_log.lock(connection)
            fates = self._fates(connection, model, now)
            for fate in fates:
                if not fate.is_kept:
                    _remove(connection, fate.revision, now, actor)
            return fates

    def _fates(self, connection: Connection, model: str, now: int) -> list[Fate]:
        revisions = _revisions(connection, model)
        roots = Roots(
            revisions={revision.name: published for revision, published in revisions},
            channels=_channels(connection, model),
            tags=_tags(connection, model),
            uses=_uses(connection, model, now - self._policy.lease_us),
        )
        kept = keepers_of(roots, self._policy, now)
        return [Fate(revision, kept[revision.name]) for revision, _ in revisions]


def _revisions(connection: Connection, model: str) -> list[tuple[Revision, int]]:
    """With the time at which somebody published each last: also who sends an old one again is about to name it."""
    requests, revisions = tables.publish_requests, tables.revisions
    newest = (
        select(requests.c.revision, func.max(requests.c.create_time_us).label("newest_us"))
        .where(requests.c.model == model)
        .group_by(requests.c.revision)
        .subquery()
    )
    query = (
        select(revisions, newest.c.newest_us)
        .select_from(revisions.outerjoin(newest, revisions.c.revision == newest.c.revision))
        .where(revisions.c.model == model)
        .order_by(revisions.c.create_time_us, revisions.c.revision)
    )
    found = connection.execute(query).mappings()
    return [(rows.to_revision(row), max(row["create_time_us"], row["newest_us"] or 0)) for row in found]


def _channels(connection: Connection, model: str) -> dict[ChannelName, list[RevisionName]]:
    """What each channel has named, each revision once: the present one first, then by when it was named last."""
    present = select(tables.channels).where(tables.channels.c.model == model)
    history = tables.channel_history
    before = select(history).where(history.c.model == model).order_by(history.c.version.desc())
    named: dict[ChannelName, dict[RevisionName, None]] = defaultdict(dict)
    for query in (present, before):
        for row in connection.execute(query).mappings():
            named[ChannelName(model, row["channel"])].setdefault(RevisionName(model, row["revision"]))
    return {channel: list(revisions) for channel, revisions in named.items()}


def _tags(connection: Connection, model: str) -> dict[TagName, RevisionName]:
    query = select(tables.tags.c.tag, tables.tags.c.revision).where(tables.tags.c.model == model)
    return {TagName(model, row.tag): RevisionName(model, row.revision) for row in connection.execute(query)}


def _uses(connection: Connection, model: str, since_us: int) -> Iterator[NodeUse]:
    """What the nodes said in their last reports, read a few at a time: a fleet may be large."""
    reports = tables.node_reports
    query = select(reports).where(reports.c.time_us > since_us).order_by(reports.c.node)
    mark = f"models/{model}/revisions/".encode()
    for row in connection.execute(query, execution_options={"yield_per": _REPORTS_AT_ONCE}).mappings():
        if mark in row["report"]:
            yield NodeUse(row["node"], row["time_us"], _named(fleet_pb2.NodeReport.FromString(row["report"])))


def _named(report: fleet_pb2.NodeReport) -> frozenset[RevisionName]:
    names = set()
    for state in report.models:
        for text in (state.serving_revision, state.target_revision):
            try:
                names.add(RevisionName.parse(text))
            except BadName:  # empty, or a node's nonsense
                continue
    return frozenset(names)


def _remove(connection: Connection, revision: Revision, now: int, actor: str) -> None:
    name = revision.name
    audit_log.append(
        connection,
        time_us=now,
        actor=actor,
        action="REVISION_COLLECTED",
        resource=str(name),
        details={"file_bytes": str(revision.file_bytes), "manifest_bytes": str(revision.manifest_bytes)},
    )
    for table in (tables.publish_requests, tables.channel_history, tables.revisions):
        connection.execute(delete(table).where(table.c.model == name.model, table.c.revision == name.revision))
