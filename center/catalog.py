"""The catalog: which models, revisions and channels there are, and every decision about them.

A decision and its audit entry are one transaction. A channel moves by compare-and-swap: the etag that the caller has
read is compared inside the transaction that moves it.
"""

import time
from collections.abc import Callable, Sequence

from sqlalchemy import func, insert, select, tuple_

from center import audit_log, rows, tables
from center.database import Database
from center.errors import StaleEtag, UnknownChannel
from center.records import Channel, Page, Revision
from deltaic.errors import InvalidArgument
from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.rpc.pages import decode_token, encode_token, page_size


def now_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000


class Catalog:
    """Reads and decisions. Blocks: call it from a thread. `clock` gives microseconds since 1970 UTC."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    # Revisions

    def revision(self, name: RevisionName) -> Revision:
        """Raises UnknownModel, UnknownRevision."""
        with self._database.reading() as connection:
            return rows.revision(connection, name)

    def holds(self, name: RevisionName) -> bool:
        with self._database.reading() as connection:
            return rows.find_revision(connection, name) is not None

    def named(self, revisions: Sequence[str]) -> list[Revision]:
        """Those of these revisions ("sha256:hex") that any model has, each once, the newest first."""
        columns = tables.revisions.c
        query = select(tables.revisions).where(columns.revision.in_(revisions))
        query = query.order_by(columns.create_time_us.desc(), columns.model)
        with self._database.reading() as connection:
            found = [rows.to_revision(row) for row in connection.execute(query).mappings()]
        return list({each.name.revision: each for each in reversed(found)}.values())[::-1]

    def list_revisions(self, model: ModelName, size: int = 0, token: str = "") -> Page[Revision]:
        """Newest first. Raises UnknownModel, BadPage."""
        limit = page_size(size)
        listing = f"revisions of {model.model}"
        position = decode_token(token, listing, int, str)
        columns = tables.revisions.c
        query = select(tables.revisions).where(columns.model == model.model)
        if position:
            query = query.where(tuple_(columns.create_time_us, columns.revision) < tuple_(*position))
        query = query.order_by(columns.create_time_us.desc(), columns.revision.desc()).limit(limit + 1)
        with self._database.reading() as connection:
            rows.require_model(connection, model.model)
            found = [rows.to_revision(row) for row in connection.execute(query).mappings()]
        kept = tuple(found[:limit])
        more = len(found) > limit
        return Page(kept, encode_token(listing, kept[-1].create_time_us, kept[-1].name.revision) if more else "")

    def published(self, request_id: str, name: RevisionName) -> Revision | None:
        """What this publish request was answered with, if it was. Raises RequestIdReused."""
        with self._database.reading() as connection:
            return rows.published(connection, request_id, name)

    def publish(self, revision: Revision, *, request_id: str, actor: str) -> Revision:
        """Make a vetted manifest a revision, and its model if it is the first; an old one stays as it was.

        `revision.create_time_us` is set here. Raises RequestIdReused.
        """
        name, now = revision.name, self._clock()
        with self._database.writing() as connection:
            audit_log.lock(connection)
            if answered := rows.published(connection, request_id, name):
                return answered
            present = rows.find_revision(connection, name)
            if present is None:
                rows.insert_revision(connection, revision, now)
                audit_log.append(
                    connection,
                    time_us=now,
                    actor=actor,
                    action="REVISION_PUBLISHED",
                    resource=str(name),
                    details={
                        "request_id": request_id,
                        "file_bytes": str(revision.file_bytes),
                        "manifest_bytes": str(revision.manifest_bytes),
                    },
                )
            connection.execute(
                insert(tables.publish_requests).values(
                    request_id=request_id, model=name.model, revision=name.revision, create_time_us=now
                )
            )
            return present or rows.revision(connection, name)

    # Channels

    def channel(self, name: ChannelName) -> Channel:
        """Raises UnknownModel, UnknownChannel."""
        with self._database.reading() as connection:
            if found := rows.find_channel(connection, name):
                return found
            rows.require_model(connection, name.model)
        raise UnknownChannel(
            f"no channel {name}", hint=f"make it with: deltaic move {name.model}/{name.channel} REVISION"
        )

    def channels(self, names: Sequence[ChannelName] = ()) -> list[Channel]:
        """Those that exist of `names`; all when none is named."""
        query = rows.channel_query()
        if names:
            wanted = [(name.model, name.channel) for name in names]
            query = query.where(tuple_(tables.channels.c.model, tables.channels.c.channel).in_(wanted))
        with self._database.reading() as connection:
            return [rows.to_channel(row) for row in connection.execute(query).mappings()]

    def list_channels(self, model: ModelName | None, size: int = 0, token: str = "") -> Page[Channel]:
        """By name; None means those of all models. Raises BadPage."""
        limit = page_size(size)
        listing = f"channels of {model.model if model else '*'}"
        position = decode_token(token, listing, str, str)
        columns = tables.channels.c
        query = rows.channel_query()
        if model:
            query = query.where(columns.model == model.model)
        if position:
            query = query.where(tuple_(columns.model, columns.channel) > tuple_(*position))
        query = query.order_by(columns.model, columns.channel).limit(limit + 1)
        with self._database.reading() as connection:
            found = [rows.to_channel(row) for row in connection.execute(query).mappings()]
        kept = tuple(found[:limit])
        more = len(found) > limit
        return Page(kept, encode_token(listing, kept[-1].name.model, kept[-1].name.channel) if more else "")

    def set_channel(self, name: ChannelName, revision: RevisionName, *, etag: str, actor: str) -> Channel:
        """Move a channel, or make it. An empty etag moves it whatever it names.

        A channel that names the revision already is answered as it is, even to a stale etag: a call that was repeated
        because its answer was lost must not look like a lost race.

        Raises UnknownModel, UnknownRevision, StaleEtag, InvalidArgument for a revision of another model.
        """
        if revision.model != name.model:
            raise InvalidArgument(f"{revision} is not of the model of {name}", hint="name a revision of this model")
        now = self._clock()
        with self._database.writing() as connection:
            audit_log.lock(connection)
            target = rows.revision(connection, revision)
            present = rows.find_channel(connection, name)
            if present and present.revision.name == revision:
                return present
            if etag and (present is None or etag != present.etag):
                raise _stale(name, present)
            entry = audit_log.append(
                connection,
                time_us=now,
                actor=actor,
                action=audit_log.CHANNEL_MOVED,
                resource=str(name),
                details={
                    "revision": revision.revision,
                    "previous_revision": present.revision.name.revision if present else "",
                },
            )
            moved = Channel(name, target, entry.sequence, now)
            rows.write_channel(connection, moved, is_new=present is None)
            return moved

    def named_before(self, channel: ChannelName, most: int) -> list[Revision]:
        """What a channel named before, the last first, each once; revisions that are gone are left out."""
        with self._database.reading() as connection:
            found = (rows.find_revision(connection, each) for each in rows.named_before(connection, channel, most))
            return [revision for revision in found if revision is not None]

    def counts(self) -> tuple[int, int]:
        """Models, revisions."""
        with self._database.reading() as connection:
            return tuple(  # type: ignore[return-value]
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (tables.models, tables.revisions)
            )


def _stale(name: ChannelName, present: Channel | None) -> StaleEtag:
    now = str(present.revision.name) if present else ""
    said = f"it names {present.revision.name.revision} now" if present else "it does not exist"
    return StaleEtag(
        f"{name} is not what you have read: {said}", hint="read the channel again, then decide", present_revision=now
    )
