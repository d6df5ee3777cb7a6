"""Reports of the branch: the newest of each device beside the edge's own."""

import pytest

from deltaic.errors import InvalidArgument
from deltaic.rpc.reporting import own_report
from deltaic.v1 import fleet_pb2, inference_pb2
from edge import fleet as fleet_module
from edge.fleet import Fleet

_Phase = fleet_pb2.ModelState


def make() -> tuple[Fleet, list[str]]:
    told: list[str] = []
    fleet = Fleet("edge@one", lambda: fleet_pb2.NodeReport(node="edge@one"), lambda: told.append("changed"))
    return fleet, told


def report(node: str, answered: int = 0) -> fleet_pb2.NodeReport:
    return fleet_pb2.NodeReport(node=node, requests=fleet_pb2.RequestCounts(answered=answered))


def test_the_edges_own_report_comes_first_then_the_newest_of_each_device():
    fleet, told = make()
    fleet.record([report("device@a", 1), report("device@b", 1)])
    fleet.record([report("device@a", 2)])
    assert [each.node for each in fleet.reports()] == ["edge@one", "device@b", "device@a"]
    assert fleet.reports()[-1].requests.answered == 2
    assert told == ["changed", "changed"]


@pytest.mark.parametrize("node", ["", "x" * 256, "edge@one"])
def test_a_report_with_an_unusable_name_is_refused_with_all_that_came_with_it(node):
    fleet, told = make()
    with pytest.raises(InvalidArgument):
        fleet.record([report("device@a"), report(node)])
    assert [each.node for each in fleet.reports()] == ["edge@one"]
    assert told == []


def test_a_report_that_the_center_would_refuse_does_not_spoil_those_of_the_branch():
    fleet, told = make()
    bad_time, too_large = report("device@b"), report("device@c")
    bad_time.time.seconds = 10**18
    too_large.version = "v" * 131_072
    for bad, said in ((bad_time, "time"), (too_large, "bytes")):
        with pytest.raises(InvalidArgument, match=said):
            fleet.record([bad])
    assert [each.node for each in fleet.reports()] == ["edge@one"]
    assert told == []


def test_too_many_reports_in_one_call_are_refused(monkeypatch):
    monkeypatch.setattr(fleet_module, "MAX_REPORTS", 2)
    fleet, _ = make()
    with pytest.raises(InvalidArgument, match="3 reports"):
        fleet.record([report(f"device@{n}") for n in range(3)])


def test_of_too_many_devices_the_one_longest_unheard_of_is_forgotten(monkeypatch):
    monkeypatch.setattr(fleet_module, "MAX_DEVICES", 2)
    fleet, _ = make()
    for node in ("device@a", "device@b", "device@a", "device@c"):
        fleet.record([report(node)])
    assert [each.node for each in fleet.reports()[1:]] == ["device@a", "device@c"]


def test_the_own_report_leaves_out_channels_that_were_never_heard_of():
    states = [
        fleet_pb2.ModelState(channel="models/a/channels/stable"),
        fleet_pb2.ModelState(channel="models/b/channels/stable", phase=_Phase.PHASE_READY),
    ]
    own = own_report("edge@one", inference_pb2.NODE_ROLE_EDGE, states, fleet_pb2.RequestCounts(answered=3))
    assert [state.channel for state in own.models] == ["models/b/channels/stable"]
    assert (own.role, own.requests.answered) == (inference_pb2.NODE_ROLE_EDGE, 3)
    assert own.HasField("time")
    assert own.version
