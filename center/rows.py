"""Statements on one connection: what the catalog's decisions are made of."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, delete, insert, select, update

from center import tables
from center.errors import RequestIdReused, UnknownModel, UnknownRevision
from center.records import Channel, Revision, Tag
from deltaic.names import ChannelName, RevisionName, TagName


def require_model(connection: Connection, model: str) -> None:
    if connection.execute(select(tables.models.c.model).where(tables.models.c.model == model)).first() is None:
        raise UnknownModel(f"no model {model} here", hint="list what there is with: deltaic channels")


def find_revision(connection: Connection, name: RevisionName) -> Revision | None:
    query = select(tables.revisions).where(
        tables.revisions.c.model == name.model, tables.revisions.c.revision == name.revision
    )
    row = connection.execute(query).mappings().one_or_none()
    return to_revision(row) if row else None


def revision(connection: Connection, name: RevisionName) -> Revision:
    if found := find_revision(connection, name):
        return found
    require_model(connection, name.model)
    raise UnknownRevision(f"no revision {name}", hint="publish it first, or list those there are")


def insert_revision(connection: Connection, revision: Revision, now: int) -> None:
    name = revision.name
    if connection.execute(select(tables.models).where(tables.models.c.model == name.model)).first() is None:
        connection.execute(insert(tables.models).values(model=name.model, create_time_us=now))
    connection.execute(
        insert(tables.revisions).values(
            model=name.model,
            revision=name.revision,
            manifest_bytes=revision.manifest_bytes,
            file_bytes=revision.file_bytes,
            create_time_us=now,
            description=revision.description,
        )
    )


def published(connection: Connection, request_id: str, name: RevisionName) -> Revision | None:
    rows = tables.publish_requests
    row = connection.execute(select(rows).where(rows.c.request_id == request_id)).mappings().one_or_none()
    if row is None:
        return None
    if (row["model"], row["revision"]) != (name.model, name.revision):
        raise RequestIdReused(
            f"request {request_id} published another manifest", hint="use a new request id for a new manifest"
        )
    return revision(connection, name)


def channel_query() -> Select[Any]:
    joined = tables.channels.join(tables.revisions)
    return select(
        tables.revisions, tables.channels.c.channel, tables.channels.c.version, tables.channels.c.update_time_us
    ).select_from(joined)


def find_channel(connection: Connection, name: ChannelName) -> Channel | None:
    query = channel_query().where(_is_channel(tables.channels, name))
    row = connection.execute(query).mappings().one_or_none()
    return to_channel(row) if row else None


def write_channel(connection: Connection, moved: Channel, *, is_new: bool) -> None:
    values = {
        "revision": moved.revision.name.revision,
        "version": moved.version,
        "update_time_us": moved.update_time_us,
    }
    names = {"model": moved.name.model, "channel": moved.name.channel}
    if is_new:
        connection.execute(insert(tables.channels).values(names | values))
    else:
        connection.execute(update(tables.channels).where(_is_channel(tables.channels, moved.name)).values(values))
    history = tables.channel_history
    connection.execute(
        delete(history).where(_is_channel(history, moved.name), history.c.revision == values["revision"])
    )
    connection.execute(insert(history).values(names | {"revision": values["revision"], "version": moved.version}))


def named_before(connection: Connection, name: ChannelName, most: int) -> list[RevisionName]:
    """What a channel named before its present revision, the last first, each once."""
    history = tables.channel_history.c
    query = (
        select(history.revision)
        .where(_is_channel(tables.channel_history, name))
        .order_by(history.version.desc())
        .limit(most)
        .offset(1)
    )
    return [RevisionName(name.model, each) for each in connection.execute(query).scalars()]


def _is_channel(table: Table, name: ChannelName) -> ColumnElement[bool]:
    return (table.c.model == name.model) & (table.c.channel == name.channel)


def to_revision(row: RowMapping) -> Revision:
    return Revision(
        RevisionName(row["model"], row["revision"]),
        manifest_bytes=row["manifest_bytes"],
        file_bytes=row["file_bytes"],
        create_time_us=row["create_time_us"],
        description=row["description"],
    )


def to_channel(row: RowMapping) -> Channel:
    return Channel(ChannelName(row["model"], row["channel"]), to_revision(row), row["version"], row["update_time_us"])


def tag_query() -> Select[Any]:
    joined = tables.tags.join(tables.revisions)
    # The revision has a column of the same name as the tag's time.
    made = tables.tags.c.create_time_us.label("tag_time_us")
    return select(tables.revisions, tables.tags.c.tag, made).select_from(joined)


def find_tag(connection: Connection, name: TagName) -> Tag | None:
    query = tag_query().where(tables.tags.c.model == name.model, tables.tags.c.tag == name.tag)
    row = connection.execute(query).mappings().one_or_none()
    return to_tag(row) if row else None


def to_tag(row: RowMapping) -> Tag:
    return Tag(TagName(row["model"], row["tag"]), to_revision(row), row["tag_time_us"])
