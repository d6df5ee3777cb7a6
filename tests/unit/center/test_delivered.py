"""Entries of nodes in the center's log: in order, without gaps, each once, however often they come."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from center.audit_log import AuditLog
from center.database import Database
from center.delivered import LOST, Delivered
from center.errors import BadRequest, SpoolGap
from deltaic.trust.audit import AuditEntry, verify
from deltaic.v1 import audit_pb2

NOW = 1_700_000_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
    yield database
    database.close()


def entry(sequence: int, action: str = "EDGE_LOADED") -> audit_pb2.SpooledEntry:
    made = audit_pb2.SpooledEntry(sequence=sequence, action=action, resource=f"r{sequence}")
    made.time.FromMicroseconds(NOW + sequence)
    return made


def delivery(
    first: int, last: int, *, node: str = "edge@a", spool: str = "s1", oldest: int = 1
) -> audit_pb2.AppendRequest:
    entries = [entry(number) for number in range(first, last + 1)]
    return audit_pb2.AppendRequest(node=node, spool=spool, entries=entries, oldest_sequence=oldest)


def logged(database: Database) -> list[AuditEntry]:
    entries = AuditLog(database).list_entries(1_000).items
    verify(entries)
    return list(entries)


def test_a_delivery_that_comes_twice_is_in_the_log_once_and_the_chain_holds(database: Database) -> None:
    delivered = Delivered(database)
    assert delivered.append(delivery(1, 3)) == 3
    assert delivered.append(delivery(1, 3)) == 3
    assert delivered.append(delivery(2, 5)) == 5
    assert [(each.actor, each.resource, each.time_us) for each in logged(database)] == [
        ("edge@a", f"r{number}", NOW + number) for number in range(1, 6)
    ]
    assert [each.details["node_sequence"] for each in logged(database)] == list("12345")


def test_a_gap_is_refused_with_the_number_that_is_next_and_changes_nothing(database: Database) -> None:
    delivered = Delivered(database)
    delivered.append(delivery(1, 2))
    with pytest.raises(SpoolGap) as refused:
        delivered.append(delivery(4, 5, oldest=1))
    assert refused.value.metadata["expected"] == "3"
    assert len(logged(database)) == 2
    assert delivered.append(delivery(3, 5)) == 5


def test_entries_that_the_node_has_no_more_are_said_to_be_lost(database: Database) -> None:
    delivered = Delivered(database)
    delivered.append(delivery(1, 2))
    assert delivered.append(delivery(6, 6, oldest=6)) == 6
    lost = logged(database)[2]
    assert (lost.action, lost.details["first"], lost.details["last"]) == (LOST, "3", "5")


def test_nodes_and_spools_are_counted_apart(database: Database) -> None:
    delivered = Delivered(database)
    for node, spool in (("edge@a", "s1"), ("edge@b", "s1"), ("edge@a", "s2")):
        assert delivered.append(delivery(1, 1, node=node, spool=spool)) == 1
    assert len(logged(database)) == 3


def test_how_far_a_spool_was_taken_survives_a_restart_of_the_center(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'center.db'}"
    for last in (2, 2):
        database = Database.open(url)
        assert Delivered(database).append(delivery(1, last)) == 2
        assert len(logged(database)) == 2
        database.close()


@pytest.mark.parametrize(
    "wrong",
    [
        audit_pb2.AppendRequest(spool="s", entries=[entry(1)]),
        audit_pb2.AppendRequest(node="n", entries=[entry(1)]),
        audit_pb2.AppendRequest(node="n", spool="s", entries=[entry(1), entry(3)]),
        audit_pb2.AppendRequest(node="n", spool="s", entries=[entry(0)]),
        audit_pb2.AppendRequest(node="n", spool="s", entries=[entry(1, "CHANNEL_MOVED")]),
        audit_pb2.AppendRequest(node="n", spool="s", entries=[entry(n) for n in range(1, 1_002)]),
    ],
)
def test_what_no_node_may_say_is_refused_whole(database: Database, wrong: audit_pb2.AppendRequest) -> None:
    with pytest.raises(BadRequest):
        Delivered(database).append(wrong)
    assert logged(database) == []
