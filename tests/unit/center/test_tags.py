"""Tags: made once, never moved, deleted with an audit entry."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from center.audit_log import AuditLog
from center.catalog import Catalog
from center.database import Database
from center.errors import TagTaken, UnknownModel, UnknownRevision, UnknownTag
from center.records import Revision
from center.tags import Tags
from deltaic.errors import InvalidArgument
from deltaic.names import ModelName, RevisionName, TagName
from deltaic.rpc.pages import BadPage

V1 = TagName("m", "v1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
    catalog = Catalog(opened)
    for number in (1, 2):
        for model in ("m", "other"):
            revision = Revision(name(number, model), 100, 1_000, 0)
            catalog.publish(revision, request_id=str(uuid.uuid4()), actor="publisher")
    yield opened
    opened.close()


@pytest.fixture
def tags(database: Database) -> Tags:
    return Tags(database)


def name(number: int, model: str = "m") -> RevisionName:
    return RevisionName(model, f"sha256:{number:064x}")


def actions(database: Database) -> list[tuple[str, str, str, dict[str, str]]]:
    entries = AuditLog(database).list_entries().items
    return [
        (entry.action, entry.resource, entry.actor, dict(entry.details))
        for entry in entries
        if entry.action.startswith("TAG")
    ]


def test_a_tag_names_a_revision_from_then_on(tags: Tags, database: Database) -> None:
    made = tags.create(V1, name(1), actor="operator")
    assert made.revision.name == name(1)
    assert tags.list_tags(ModelName("m")).items == (made,)
    assert actions(database) == [("TAG_CREATED", str(V1), "operator", {"revision": name(1).revision})]


def test_the_same_tag_again_is_answered_as_it_is_and_decides_nothing(tags: Tags, database: Database) -> None:
    made = tags.create(V1, name(1), actor="operator")
    assert tags.create(V1, name(1), actor="somebody else") == made
    assert len(actions(database)) == 1


def test_a_tag_never_moves(tags: Tags, database: Database) -> None:
    made = tags.create(V1, name(1), actor="operator")
    with pytest.raises(TagTaken, match="never moves") as caught:
        tags.create(V1, name(2), actor="operator")
    assert caught.value.metadata["present_revision"] == str(name(1))
    assert tags.list_tags(None).items == (made,)
    assert len(actions(database)) == 1


def test_a_deleted_tag_is_gone_and_may_be_made_anew(tags: Tags, database: Database) -> None:
    tags.create(V1, name(1), actor="operator")
    tags.delete(V1, actor="operator")
    assert tags.list_tags(None).items == ()
    tags.create(V1, name(2), actor="operator")
    assert [(action, details["revision"]) for action, _, _, details in actions(database)] == [
        ("TAG_CREATED", name(1).revision),
        ("TAG_DELETED", name(1).revision),
        ("TAG_CREATED", name(2).revision),
    ]


def test_what_does_not_exist_is_said(tags: Tags, database: Database) -> None:
    with pytest.raises(UnknownRevision):
        tags.create(V1, name(9), actor="operator")
    with pytest.raises(UnknownModel):
        tags.create(TagName("ghost", "v1"), name(1, "ghost"), actor="operator")
    with pytest.raises(InvalidArgument, match="not of the model"):
        tags.create(V1, name(1, "other"), actor="operator")
    with pytest.raises(UnknownTag, match="deltaic tags m"):
        tags.delete(V1, actor="operator")
    with pytest.raises(UnknownModel):
        tags.delete(TagName("ghost", "v1"), actor="operator")
    assert actions(database) == []


def test_tags_come_in_pages_by_name(tags: Tags) -> None:
    for model in ("other", "m"):
        for word in ("v3", "v1", "v2"):
            tags.create(TagName(model, word), name(1, model), actor="operator")
    first = tags.list_tags(None, 4)
    rest = tags.list_tags(None, 4, first.next_token)
    listed = [(each.name.model, each.name.tag) for each in (*first.items, *rest.items)]
    assert listed == [(model, word) for model in ("m", "other") for word in ("v1", "v2", "v3")]
    assert [each.name.model for each in tags.list_tags(ModelName("other")).items] == ["other"] * 3
    with pytest.raises(BadPage):
        tags.list_tags(ModelName("other"), 1, first.next_token)
