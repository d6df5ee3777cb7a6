"""The catalog as collection sees it: what keeps a revision, and that removal is one decision with its audit entry."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from center.audit_log import AuditLog
from center.catalog import Catalog
from center.database import Database
from center.errors import UnknownRevision
from center.fleet import Fleet
from center.library import Library
from center.reach import KeepPolicy
from center.records import Revision
from center.tags import Tags
from deltaic.names import ChannelName, ModelName, RevisionName, TagName
from deltaic.trust.audit import verify
from deltaic.v1 import fleet_pb2

DAY = 86_400_000_000
POLICY = KeepPolicy(previous=1, lease_us=30 * DAY, grace_us=DAY)
STABLE = ChannelName("m", "stable")


class Clock:
    """Microseconds that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
    yield opened
    opened.close()


@pytest.fixture
def catalog(database: Database, clock: Clock) -> Catalog:
    return Catalog(database, clock)


@pytest.fixture
def library(database: Database, clock: Clock) -> Library:
    return Library(database, POLICY, clock)


def name(number: int, model: str = "m") -> RevisionName:
    return RevisionName(model, f"sha256:{number:064x}")


def publish(catalog: Catalog, *numbers: int, model: str = "m") -> None:
    for number in numbers:
        revision = Revision(name(number, model), 100, 1_000 + number, 0)
        catalog.publish(revision, request_id=str(uuid.uuid4()), actor="publisher")


def move(catalog: Catalog, *numbers: int, channel: ChannelName = STABLE) -> None:
    for number in numbers:
        catalog.set_channel(channel, name(number, channel.model), etag="", actor="operator")


def report(database: Database, clock: Clock, node: str, *, serving: str = "", target: str = "") -> None:
    state = fleet_pb2.ModelState(channel=str(STABLE), serving_revision=serving, target_revision=target)
    message = fleet_pb2.NodeReport(node=node, models=[state])
    message.time.FromMicroseconds(clock.now)
    Fleet(database, clock).record([message])


def freed(library: Library, model: str = "m") -> list[int]:
    return [int(fate.revision.name.hex, 16) for fate in library.judge(model) if not fate.is_kept]


def test_a_channel_keeps_what_it_names_and_what_it_named_before(
    catalog: Catalog, library: Library, clock: Clock
) -> None:
    publish(catalog, 1, 2, 3, 4)
    move(catalog, 1, 2, 3, 4)
    clock.now += 2 * DAY
    assert freed(library) == [1, 2]
    move(catalog, 1)
    assert freed(library) == [2, 3], "a roll back makes 1 the present one and 4 the one before"


def test_moving_to_and_fro_counts_each_revision_once(catalog: Catalog, library: Library, clock: Clock) -> None:
    publish(catalog, 1, 2, 3)
    move(catalog, 1, 2, 3, 2, 3, 2, 3)
    clock.now += 2 * DAY
    assert freed(library) == [1]


def test_a_tag_keeps_its_revision(catalog: Catalog, library: Library, database: Database, clock: Clock) -> None:
    publish(catalog, 1, 2)
    tags = Tags(database, clock)
    tags.create(TagName("m", "v1"), name(1), actor="operator")
    clock.now += 2 * DAY
    assert freed(library) == [2]
    tags.delete(TagName("m", "v1"), actor="operator")
    assert freed(library) == [1, 2]


def test_what_a_node_serves_or_wants_is_leased_until_its_report_is_too_old(
    catalog: Catalog, library: Library, database: Database, clock: Clock
) -> None:
    publish(catalog, 1, 2, 3)
    clock.now += 2 * DAY
    report(database, clock, "edge-1", serving=str(name(1)), target=str(name(2)))
    report(database, clock, "edge-2", serving="nonsense", target=str(name(9)))
    assert freed(library) == [3]
    clock.now += 31 * DAY
    assert freed(library) == [1, 2, 3]


def test_what_was_published_lately_is_kept_until_a_channel_could_name_it(
    catalog: Catalog, library: Library, clock: Clock
) -> None:
    publish(catalog, 1)
    clock.now += 2 * DAY
    publish(catalog, 2)
    assert freed(library) == [1]
    publish(catalog, 1)
    assert freed(library) == [], "who publishes an old one again is about to name it"


def test_each_model_is_judged_by_its_own(catalog: Catalog, library: Library, database: Database, clock: Clock) -> None:
    publish(catalog, 1, 2)
    publish(catalog, 1, 2, model="other")
    move(catalog, 1)
    move(catalog, 2, channel=ChannelName("other", "stable"))
    report(database, clock, "edge-1", serving=str(name(1, "other")))
    clock.now += 2 * DAY
    assert library.models() == ["m", "other"]
    assert (freed(library), freed(library, "other")) == ([2], [])


def test_collecting_removes_what_nothing_keeps_and_says_so_in_the_log(
    catalog: Catalog, library: Library, database: Database, clock: Clock
) -> None:
    publish(catalog, 1, 2, 3)
    move(catalog, 1, 2, 3)
    clock.now += 2 * DAY
    library.collect("m", actor="operator@here")
    assert [int(each.name.hex, 16) for each in catalog.list_revisions(ModelName("m")).items] == [3, 2]
    with pytest.raises(UnknownRevision):
        catalog.revision(name(1))
    entries = AuditLog(database).list_entries().items
    assert verify(entries) == 7
    last = entries[-1]
    assert (last.action, last.resource, last.actor) == ("REVISION_COLLECTED", str(name(1)), "operator@here")
    assert dict(last.details) == {"file_bytes": "1001", "manifest_bytes": "100"}
    library.collect("m", actor="operator@here")
    assert len(AuditLog(database).list_entries().items) == 7, "a second time there is nothing to decide"


def test_what_was_collected_can_be_published_again(catalog: Catalog, library: Library, clock: Clock) -> None:
    publish(catalog, 1)
    clock.now += 2 * DAY
    library.collect("m", actor="operator")
    publish(catalog, 1)
    move(catalog, 1)
    clock.now += 2 * DAY
    assert freed(library) == []


def test_judging_changes_nothing(catalog: Catalog, library: Library, database: Database, clock: Clock) -> None:
    publish(catalog, 1)
    clock.now += 2 * DAY
    assert freed(library) == [1]
    assert catalog.holds(name(1))
    assert len(AuditLog(database).list_entries().items) == 1


def test_a_channel_that_moves_while_collecting_never_names_what_is_gone(tmp_path: Path) -> None:
    """Many rounds of a real race: either the move wins and the revision stays, or it is refused."""
    url = f"sqlite:///{tmp_path / 'race.db'}"
    databases = [Database.open(url), Database.open(url)]
    catalog = Catalog(databases[0])
    library = Library(databases[1], KeepPolicy(previous=0, lease_us=0, grace_us=0))
    outcomes = set()
    for number in range(1, 41):
        publish(catalog, number)
        start = threading.Barrier(2)

        def collecting(start: threading.Barrier = start) -> None:
            start.wait()
            library.collect("m", actor="operator")

        thread = threading.Thread(target=collecting)
        thread.start()
        start.wait()
        try:
            move(catalog, number)
            outcomes.add("moved")
            assert catalog.channel(STABLE).revision.name == name(number)
        except UnknownRevision:
            outcomes.add("collected")
        thread.join()
        named = {channel.revision.name for channel in catalog.channels()}
        assert all(catalog.holds(each) for each in named)
    assert outcomes
    [each.close() for each in databases]
