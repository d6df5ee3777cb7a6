"""The catalog: decisions, races, pages, and the audit entries that come with them."""

import threading
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import text

from center.audit_log import AuditLog
from center.catalog import Catalog
from center.database import Database
from center.errors import (
    OutOfRange,
    RequestIdReused,
    StaleEtag,
    UnknownChannel,
    UnknownEntry,
    UnknownModel,
    UnknownRevision,
)
from center.records import Channel, Revision
from deltaic.errors import InvalidArgument
from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.rpc.pages import BadPage
from deltaic.trust.audit import verify
from deltaic.trust.errors import ChainBroken

STABLE = ChannelName("m", "stable")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
    yield opened
    opened.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    ticks = count(1_700_000_000_000_000, 10)
    return Catalog(database, clock=lambda: next(ticks))


def name(number: int, model: str = "m") -> RevisionName:
    return RevisionName(model, f"sha256:{number:064x}")


def publish(catalog: Catalog, number: int, model: str = "m", request_id: str = "") -> Revision:
    revision = Revision(name(number, model), 100, 1_000 + number, 0, f"number {number}")
    return catalog.publish(revision, request_id=request_id or str(uuid.uuid4()), actor="publisher")


def move(catalog: Catalog, number: int, etag: str = "", channel: ChannelName = STABLE) -> Channel:
    return catalog.set_channel(channel, name(number, channel.model), etag=etag, actor="operator")


def test_a_published_revision_is_found_again_as_it_was(catalog: Catalog) -> None:
    published = publish(catalog, 1)
    assert catalog.revision(name(1)) == published
    assert published.create_time_us >= 1_700_000_000_000_000
    assert catalog.holds(name(1))
    assert not catalog.holds(name(2))
    assert catalog.counts() == (1, 1)


def test_the_same_request_answers_the_same_and_writes_nothing_twice(catalog: Catalog, database: Database) -> None:
    request = str(uuid.uuid4())
    first = publish(catalog, 1, request_id=request)
    assert publish(catalog, 1, request_id=request) == first
    assert catalog.published(request, name(1)) == first
    assert len(AuditLog(database).list_entries().items) == 1


def test_another_request_for_a_revision_that_is_there_answers_the_old_one(catalog: Catalog, database: Database) -> None:
    first = publish(catalog, 1)
    assert publish(catalog, 1) == first
    assert len(AuditLog(database).list_entries().items) == 1


@pytest.mark.parametrize("other", [name(2), name(1, "other")])
def test_a_request_id_serves_one_manifest_of_one_model(catalog: Catalog, other: RevisionName) -> None:
    request = str(uuid.uuid4())
    publish(catalog, 1, request_id=request)
    with pytest.raises(RequestIdReused):
        publish(catalog, int(other.hex, 16), model=other.model, request_id=request)
    with pytest.raises(RequestIdReused):
        catalog.published(request, other)
    assert not catalog.holds(other)


def test_unknown_names_say_what_is_unknown(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel):
        catalog.revision(name(1))
    with pytest.raises(UnknownModel) as nothing:
        catalog.channel(STABLE)
    assert "deltaic channels" in nothing.value.hint, "the command that asks a center"
    with pytest.raises(UnknownModel):
        catalog.list_revisions(ModelName("m"))
    publish(catalog, 1)
    with pytest.raises(UnknownRevision):
        catalog.revision(name(2))
    with pytest.raises(UnknownChannel) as unmade:
        catalog.channel(STABLE)
    assert "deltaic move m/stable REVISION" in unmade.value.hint
    with pytest.raises(UnknownRevision):
        move(catalog, 2)


def test_a_channel_moves_and_its_etag_changes_with_every_move(catalog: Catalog) -> None:
    publish(catalog, 1), publish(catalog, 2)
    etags = [move(catalog, number).etag for number in (1, 2, 1)]
    assert len(set(etags)) == 3
    assert catalog.channel(STABLE).etag == etags[-1]
    assert catalog.channel(STABLE).revision.name == name(1)


def test_a_stale_etag_moves_nothing_and_names_the_present_revision(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        publish(catalog, number)
    old = move(catalog, 1)
    present = move(catalog, 2, old.etag)
    with pytest.raises(StaleEtag) as caught:
        move(catalog, 3, old.etag)
    assert caught.value.metadata["present_revision"] == str(name(2))
    assert catalog.channel(STABLE) == present


def test_an_etag_of_a_channel_that_does_not_exist_is_stale(catalog: Catalog) -> None:
    publish(catalog, 1)
    with pytest.raises(StaleEtag, match="does not exist"):
        move(catalog, 1, "0123456789abcdef")


def test_moving_to_the_same_revision_changes_nothing(catalog: Catalog, database: Database) -> None:
    publish(catalog, 1), publish(catalog, 2)
    first = move(catalog, 1)
    second = move(catalog, 2, first.etag)
    assert move(catalog, 2, first.etag) == second
    assert [entry.action for entry in AuditLog(database).list_entries().items].count("CHANNEL_MOVED") == 2


def test_a_channel_takes_only_revisions_of_its_model(catalog: Catalog) -> None:
    publish(catalog, 1), publish(catalog, 1, "other")
    with pytest.raises(InvalidArgument, match="not of the model"):
        catalog.set_channel(STABLE, name(1, "other"), etag="", actor="operator")


def test_of_two_that_race_with_one_etag_exactly_one_wins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'race.db'}"
    databases = [Database.open(url), Database.open(url)]
    catalogs = [Catalog(each) for each in databases]
    for number in range(1, 42):
        publish(catalogs[0], number)
    move(catalogs[0], 1)
    start, outcomes = threading.Barrier(2), []

    def race(catalog: Catalog, target: int, etag: str) -> None:
        start.wait()
        try:
            outcomes.append(move(catalog, target, etag).revision.name)
        except StaleEtag as error:
            outcomes.append(error.metadata["present_revision"])

    for turn in range(20):
        etag = catalogs[0].channel(STABLE).etag
        outcomes.clear()
        threads = [
            threading.Thread(target=race, args=(catalog, 2 + turn * 2 + side, etag))
            for side, catalog in enumerate(catalogs)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        winner = catalogs[1].channel(STABLE).revision.name
        assert sorted(map(str, outcomes)) == [str(winner)] * 2
        assert sum(isinstance(outcome, RevisionName) for outcome in outcomes) == 1
    entries = AuditLog(databases[0]).list_entries(1_000).items
    assert verify(entries) == 41 + 1 + 20
    [each.close() for each in databases]


def test_revisions_come_in_pages_newest_first(catalog: Catalog) -> None:
    for number in range(1, 6):
        publish(catalog, number)
    publish(catalog, 9, "other")
    seen, token = [], ""
    for _ in range(3):
        page = catalog.list_revisions(ModelName("m"), 2, token)
        seen += [revision.name for revision in page.items]
        token = page.next_token
    assert seen == [name(number) for number in (5, 4, 3, 2, 1)]
    assert token == ""


def test_revisions_of_one_instant_are_all_listed(database: Database) -> None:
    catalog = Catalog(database, clock=lambda: 5)
    for number in range(1, 6):
        publish(catalog, number)
    first = catalog.list_revisions(ModelName("m"), 3)
    rest = catalog.list_revisions(ModelName("m"), 3, first.next_token)
    assert [int(each.name.hex, 16) for each in (*first.items, *rest.items)] == [5, 4, 3, 2, 1]


def test_channels_come_in_pages_by_name(catalog: Catalog) -> None:
    for model in ("a", "b"):
        publish(catalog, 1, model)
        for channel in ("stable", "canary"):
            move(catalog, 1, channel=ChannelName(model, channel))
    first = catalog.list_channels(None, 3)
    rest = catalog.list_channels(None, 3, first.next_token)
    listed = [f"{each.name.model}/{each.name.channel}" for each in (*first.items, *rest.items)]
    assert listed == ["a/canary", "a/stable", "b/canary", "b/stable"]
    assert [each.name.model for each in catalog.list_channels(ModelName("b")).items] == ["b", "b"]
    assert {each.name for each in catalog.channels([ChannelName("a", "stable"), ChannelName("x", "y")])} == {
        ChannelName("a", "stable")
    }


@pytest.mark.parametrize("size", [-1, 1_001])
def test_a_page_size_out_of_bounds_is_refused(catalog: Catalog, size: int) -> None:
    with pytest.raises(BadPage, match="page size"):
        catalog.list_channels(None, size)


def test_a_page_token_of_another_list_is_refused(catalog: Catalog) -> None:
    for model in ("m", "other"):
        publish(catalog, 1, model), publish(catalog, 2, model)
    token = catalog.list_revisions(ModelName("m"), 1).next_token
    with pytest.raises(BadPage):
        catalog.list_revisions(ModelName("other"), 1, token)
    with pytest.raises(BadPage):
        catalog.list_channels(None, 1, token)


def test_every_decision_is_in_the_log_with_its_actor(catalog: Catalog, database: Database) -> None:
    publish(catalog, 1), publish(catalog, 2)
    move(catalog, 1), move(catalog, 2)
    entries = AuditLog(database).list_entries().items
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("REVISION_PUBLISHED", "publisher"),
        ("REVISION_PUBLISHED", "publisher"),
        ("CHANNEL_MOVED", "operator"),
        ("CHANNEL_MOVED", "operator"),
    ]
    assert entries[3].resource == str(STABLE)
    assert dict(entries[3].details) == {"revision": name(2).revision, "previous_revision": name(1).revision}
    assert verify(entries) == 4


def test_a_refused_decision_leaves_no_entry(catalog: Catalog, database: Database) -> None:
    publish(catalog, 1)
    with pytest.raises(StaleEtag):
        move(catalog, 1, "stale")
    assert len(AuditLog(database).list_entries().items) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody' WHERE sequence = 2",
        "UPDATE audit SET details = '{}' WHERE sequence = 2",
        "UPDATE audit SET time_us = time_us + 1 WHERE sequence = 2",
        "DELETE FROM audit WHERE sequence = 2",
    ],
)
def test_a_row_altered_behind_our_back_breaks_the_proof(catalog: Catalog, database: Database, statement: str) -> None:
    for number in (1, 2, 3):
        publish(catalog, number)
    log = AuditLog(database)
    assert verify(log.prove(1)) == 3
    with database.writing() as connection:
        connection.execute(text(statement))
    with pytest.raises(ChainBroken):
        verify(log.prove(1))


def test_a_proof_runs_from_the_entry_to_the_head_asked_for(catalog: Catalog, database: Database) -> None:
    for number in range(1, 6):
        publish(catalog, number)
    log = AuditLog(database)
    assert [entry.sequence for entry in log.prove(2, 4)] == [2, 3, 4]
    assert [entry.sequence for entry in log.prove(4)] == [4, 5]
    for sequence, head in ((0, 0), (6, 0), (4, 3), (1, 9), (1 << 63, 0)):
        with pytest.raises(UnknownEntry):
            log.prove(sequence, head)


def test_a_proof_that_would_be_too_long_is_refused(
    catalog: Catalog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("center.audit_log.MAX_PROOF_ENTRIES", 2)
    for number in range(1, 5):
        publish(catalog, number)
    assert len(AuditLog(database).prove(2)) == 3
    with pytest.raises(OutOfRange):
        AuditLog(database).prove(1)


def test_the_log_comes_in_pages_oldest_first(catalog: Catalog, database: Database) -> None:
    for number in range(1, 6):
        publish(catalog, number)
    log = AuditLog(database)
    first = log.list_entries(3)
    rest = log.list_entries(3, first.next_token)
    assert [entry.sequence for entry in (*first.items, *rest.items)] == [1, 2, 3, 4, 5]
    assert rest.next_token == ""


def test_a_channel_remembers_what_it_named_before_the_last_first_and_each_once(catalog: Catalog) -> None:
    for number in (1, 2, 3, 4):
        publish(catalog, number)
    for number in (1, 2, 3, 2, 4):
        move(catalog, number)
    move(catalog, 1, channel=ChannelName("m", "canary"))
    assert [each.name for each in catalog.named_before(STABLE, 10)] == [name(2), name(3), name(1)]
    assert [each.name for each in catalog.named_before(STABLE, 1)] == [name(2)]
    assert catalog.named_before(STABLE, 0) == []
    assert catalog.named_before(ChannelName("m", "canary"), 10) == []
    assert catalog.named_before(ChannelName("m", "none"), 10) == []


def test_a_revision_is_found_by_its_digest_whatever_its_model(catalog: Catalog) -> None:
    publish(catalog, 1, "m")
    publish(catalog, 1, "twin")
    publish(catalog, 2, "other")
    found = catalog.named([name(1).revision, name(2).revision, name(3).revision])
    assert [each.name.revision for each in found] == [name(2).revision, name(1).revision], "the newest first, each once"
    assert catalog.named([]) == []
