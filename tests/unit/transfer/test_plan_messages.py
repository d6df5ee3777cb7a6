"""Plans as messages: what a node reads of an answer, and of one that makes no sense."""

from collections.abc import Callable

import pytest

from deltaic.names import RevisionName
from deltaic.transfer.errors import BadLimits
from deltaic.transfer.plan_messages import answer, deltas_in, limits_of, limits_to_proto
from deltaic.transfer.planning import Limits, Method, Plan, PricedPlan, Step
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))
INDEX = Digest.of(b"index")
Answer = registry_pb2.PlanUpdateResponse


def name_of(digest: Digest) -> RevisionName:
    return RevisionName("m", str(digest))


def step(source: Digest, target: Digest) -> Step:
    return Step(Method.DELTA, source, target, INDEX, 100, 10, 0.5)


def answered(*steps: Step) -> Answer:
    return answer(registry_pb2.Revision(name=str(name_of(C))), PricedPlan(Plan((), 0, 1, 1), steps), name_of)


def test_a_plan_comes_back_as_it_was_sent() -> None:
    steps = (Step(Method.REUSE_CHUNKS, A, C), step(A, B), step(B, C))
    message = answered(*steps)
    assert deltas_in(message, C) == [*steps[1:]]
    assert [each.from_revision for each in message.steps] == [str(name_of(each)) for each in (A, A, B)]
    assert [each.to_revision for each in message.steps] == [str(name_of(each)) for each in (C, B, C)]


def test_a_plan_of_chunks_has_no_deltas() -> None:
    message = answered(Step(Method.CHUNKS, None, C, None, 7))
    assert deltas_in(message, C) == []
    assert (message.steps[0].from_revision, message.steps[0].fetch_bytes) == ("", 7)
    assert not message.steps[0].HasField("delta")


def test_a_node_that_knows_no_deltas_sends_no_steps() -> None:
    assert deltas_in(Answer(fetch_bytes=5), C) == []


def _no_index(message: Answer) -> None:
    message.steps[0].ClearField("delta")


def _short_digest(message: Answer) -> None:
    message.steps[0].to_manifest.sha256 = b"short"


def _gap(message: Answer) -> None:
    message.steps[1].from_manifest.CopyFrom(A.to_proto())


def _elsewhere(message: Answer) -> None:
    message.steps[-1].to_manifest.CopyFrom(A.to_proto())


def _too_long(message: Answer) -> None:
    last = message.steps[-1]
    for _ in range(3):
        message.steps.add().CopyFrom(last)
        message.steps[-1].from_manifest.CopyFrom(C.to_proto())


@pytest.mark.parametrize("spoil", [_no_index, _short_digest, _gap, _elsewhere, _too_long])
def test_a_plan_that_makes_no_sense_is_no_plan(spoil: Callable[[Answer], None]) -> None:
    message = answered(step(A, B), step(B, C))
    assert deltas_in(message, C)
    spoil(message)
    assert deltas_in(message, C) == []


def test_limits_come_back_as_they_were_sent_and_none_is_none() -> None:
    limits = Limits(10, 20, 30, 4.5)
    assert limits_of(registry_pb2.PlanUpdateRequest(limits=limits_to_proto(limits))) == limits
    assert limits_of(registry_pb2.PlanUpdateRequest()) is None


@pytest.mark.parametrize("wait", [-1.0, float("nan"), float("inf")])
def test_a_wait_that_is_no_time_is_refused(wait: float) -> None:
    with pytest.raises(BadLimits):
        limits_of(registry_pb2.PlanUpdateRequest(limits=registry_pb2.NodeLimits(wait_seconds=wait)))
