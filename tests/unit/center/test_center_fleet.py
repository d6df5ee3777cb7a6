"""Reports of nodes: the newest of each, through a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from center.database import Database
from center.errors import BadRequest
from center.fleet import Fleet
from deltaic.rpc.pages import BadPage
from deltaic.v1 import fleet_pb2

NOW = 1_700_000_000_000_000


def report(node: str, time_us: int = NOW, version: str = "1") -> fleet_pb2.NodeReport:
    message = fleet_pb2.NodeReport(node=node, version=version)
    message.time.FromMicroseconds(time_us)
    return message


@pytest.fixture
def open_fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Fleet]:
    def opened() -> Fleet:
        database = Database.open(f"sqlite:///{tmp_path / 'center.db'}")
        request.addfinalizer(database.close)
        return Fleet(database, clock=lambda: NOW)

    return opened


def versions(fleet: Fleet) -> dict[str, str]:
    return {each.node: each.version for each in fleet.list_nodes().items}


def test_a_restarted_center_remembers_its_fleet(open_fleet: Callable[[], Fleet]) -> None:
    open_fleet().record([report("edge@a"), report("device@b")])
    assert [each.node for each in open_fleet().list_nodes().items] == ["device@b", "edge@a"]


def test_the_newest_report_of_a_node_counts(open_fleet: Callable[[], Fleet]) -> None:
    fleet = open_fleet()
    fleet.record([report("n", NOW - 10, "first")])
    fleet.record([report("n", NOW - 5, "second")])
    fleet.record([report("n", NOW - 8, "late")])
    assert versions(fleet) == {"n": "second"}


def test_of_two_reports_of_one_node_in_one_call_the_newer_counts(open_fleet: Callable[[], Fleet]) -> None:
    fleet = open_fleet()
    fleet.record([report("n", NOW - 1, "new"), report("n", NOW - 9, "old")])
    assert versions(fleet) == {"n": "new"}


def test_a_node_whose_clock_ran_ahead_is_heard_again(open_fleet: Callable[[], Fleet]) -> None:
    fleet = open_fleet()
    fleet.record([report("n", NOW * 2, "ahead")])
    fleet.record([report("n", NOW, "corrected")])
    assert versions(fleet) == {"n": "corrected"}


@pytest.mark.parametrize("node", ["", "n" * 256])
def test_a_report_without_a_usable_name_is_refused_with_its_whole_call(
    open_fleet: Callable[[], Fleet], node: str
) -> None:
    fleet = open_fleet()
    with pytest.raises(BadRequest):
        fleet.record([report("good"), report(node)])
    assert versions(fleet) == {}


@pytest.mark.parametrize("seconds", [10**18, -(10**17)])
def test_a_report_with_a_time_that_is_none_is_refused(open_fleet: Callable[[], Fleet], seconds: int) -> None:
    bad = report("bad")
    bad.time.seconds = seconds
    with pytest.raises(BadRequest, match="time"):
        open_fleet().record([report("good"), bad])


def test_a_report_larger_than_any_node_has_to_say_is_refused(open_fleet: Callable[[], Fleet]) -> None:
    with pytest.raises(BadRequest, match="bytes"):
        open_fleet().record([report("n", version="v" * 131_072)])


def test_too_many_reports_in_one_call_are_refused(open_fleet: Callable[[], Fleet]) -> None:
    fleet = open_fleet()
    fleet.record([report(f"n{number:05}") for number in range(1_200)])
    with pytest.raises(BadRequest, match="10001 reports"):
        fleet.record([report("n")] * 10_001)
    assert len(fleet.list_nodes(1_000).items) == 1_000


def test_nodes_come_in_pages_by_name(open_fleet: Callable[[], Fleet]) -> None:
    fleet = open_fleet()
    fleet.record([report(name) for name in "dacb"])
    first = fleet.list_nodes(3)
    rest = fleet.list_nodes(3, first.next_token)
    assert [each.node for each in (*first.items, *rest.items)] == list("abcd")
    with pytest.raises(BadPage):
        fleet.list_nodes(3, "not a token")
