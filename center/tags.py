"""Tags: fixed names of revisions. Made once, never moved; making and deleting one is a decision in the audit log."""

from collections.abc import Callable

from sqlalchemy import delete, insert, tuple_

from center import audit_log, rows, tables
from center.catalog import now_us
from center.database import Database
from center.errors import TagTaken, UnknownTag
from center.records import Page, Tag
from deltaic.errors import InvalidArgument
from deltaic.names import ModelName, RevisionName, TagName
from deltaic.rpc.pages import decode_token, encode_token, page_size


class Tags:
    """Blocks: call it from a thread. `clock` gives microseconds since 1970 UTC."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    def list_tags(self, model: ModelName | None, size: int = 0, token: str = "") -> Page[Tag]:
        """By name; None means those of all models. Raises BadPage."""
        limit = page_size(size)
        listing = f"tags of {model.model if model else '*'}"
        position = decode_token(token, listing, str, str)
        columns = tables.tags.c
        query = rows.tag_query()
        if model:
            query = query.where(columns.model == model.model)
        if position:
            query = query.where(tuple_(columns.model, columns.tag) > tuple_(*position))
        query = query.order_by(columns.model, columns.tag).limit(limit + 1)
        with self._database.reading() as connection:
            found = [rows.to_tag(row) for row in connection.execute(query).mappings()]
        kept = tuple(found[:limit])
        more = len(found) > limit
        return Page(kept, encode_token(listing, kept[-1].name.model, kept[-1].name.tag) if more else "")

    def create(self, name: TagName, revision: RevisionName, *, actor: str) -> Tag:
        """Name a revision. A tag that names it already is answered as it is.

        Raises UnknownModel, UnknownRevision, TagTaken, InvalidArgument for a revision of another model.
        """
        if revision.model != name.model:
            raise InvalidArgument(f"{revision} is not of the model of {name}", hint="name a revision of this model")
        now = self._clock()
        with self._database.writing() as connection:
            audit_log.lock(connection)
            target = rows.revision(connection, revision)
            if present := rows.find_tag(connection, name):
                return _the_same(present, revision)
            audit_log.append(
                connection,
                time_us=now,
                actor=actor,
                action="TAG_CREATED",
                resource=str(name),
                details={"revision": revision.revision},
            )
            values = {"model": name.model, "tag": name.tag, "revision": revision.revision, "create_time_us": now}
            connection.execute(insert(tables.tags).values(values))
            return Tag(name, target, now)

    def delete(self, name: TagName, *, actor: str) -> None:
        """Raises UnknownModel, UnknownTag."""
        with self._database.writing() as connection:
            audit_log.lock(connection)
            present = rows.find_tag(connection, name)
            if present is None:
                rows.require_model(connection, name.model)
                raise UnknownTag(f"no tag {name}", hint=f"see deltaic tags {name.model}")
            audit_log.append(
                connection,
                time_us=self._clock(),
                actor=actor,
                action="TAG_DELETED",
                resource=str(name),
                details={"revision": present.revision.name.revision},
            )
            here = (tables.tags.c.model == name.model) & (tables.tags.c.tag == name.tag)
            connection.execute(delete(tables.tags).where(here))


def _the_same(present: Tag, wanted: RevisionName) -> Tag:
    if present.revision.name != wanted:
        raise TagTaken(
            f"{present.name} names {present.revision.name.revision} already",
            hint="a tag never moves: make another, or delete this one first with deltaic untag",
            present_revision=str(present.revision.name),
        )
    return present
