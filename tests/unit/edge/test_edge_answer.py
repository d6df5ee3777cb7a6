"""What becomes of a request whose model goes away, or does not start, between the decision and the answer."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from deltaic.engine.errors import NotServed, WorkerFailed
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2
from edge.answer import Answers
from edge.branch.branch import Branch
from edge.branch.ways import Here, Policy
from edge.errors import HotSetFull, NotHeldHere
from edge.index.entries import RevisionEntry
from edge.index.secret import IndexSecret
from edge.places import Places
from edge.statistics import RequestStatistics

REVISION = RevisionName("m", f"sha256:{1:064x}")
PUBLIC = inference_pb2.SENSITIVITY_PUBLIC


class HotSet:
    """Has nothing loaded; each load fails as the next of `errors` says."""

    def __init__(self, *errors: DeltaicError) -> None:
        self.errors = list(errors)

    def loaded(self, _key: str) -> bool:
        return False

    @asynccontextmanager
    async def load(self, _revision: RevisionName):
        await asyncio.sleep(0)
        raise self.errors.pop(0)
        yield


class Mirror:
    """Holds the revision until it is asked more than `times`."""

    def __init__(self, times: int) -> None:
        self.times = times

    def held(self, _target: RevisionName) -> RevisionName | None:
        self.times -= 1
        return REVISION if self.times >= 0 else None


class Line:
    """The center answers with its name."""

    def __init__(self, up: bool) -> None:
        self.up = up

    async def generate(self, _target, _request, _seconds):
        yield inference_pb2.GenerateResponse(text="center")


class Index:
    """Knows of no neighbour."""

    def changed(self) -> None:
        self.is_changed = True

    async def neighbours(self, _target):
        return ()


def answers_of(hot_set, mirror, line, statistics) -> Answers:
    """An edge alone with its center."""
    index = Index()
    branch = Branch(index, lambda _address: None, list, lambda: "", hedge_share=0.0)
    here = Here(hot_set.loaded, mirror.held, lambda _target: None, lambda _revision: RevisionEntry(), lambda _size: 1.0)
    ways = branch.ways(here, lambda: line.up, Policy(), IndexSecret())
    return Answers(ways, branch.trying, Places(hot_set, branch.lines, line), list, index, statistics)


async def ask(hot_set: HotSet, *, holds: int = 9, line_up: bool = True) -> tuple[str, dict[str, int]]:
    """What was answered (or the reason why not), and what was counted."""
    statistics = RequestStatistics()
    answers = answers_of(hot_set, Mirror(holds), Line(line_up), statistics)
    request = inference_pb2.GenerateRequest(model=str(REVISION), prompt="x", sensitivity=PUBLIC)
    try:
        said = "".join([piece.text async for piece in answers.generate(request, 5.0)])
    except DeltaicError as error:
        said = error.reason
    totals = statistics.totals()
    return said, {"forwarded": totals.forwarded, "failed": totals.failed}


@pytest.mark.parametrize("error", [HotSetFull("full"), WorkerFailed("broken")])
async def test_a_public_request_that_finds_no_room_or_no_worker_here_is_passed_on(error):
    assert await ask(HotSet(error)) == ("center", {"forwarded": 1, "failed": 0})


@pytest.mark.parametrize("error", [HotSetFull("full"), WorkerFailed("broken")])
async def test_so_is_one_that_finds_out_at_the_second_attempt(error):
    assert await ask(HotSet(NotServed("switched"), error)) == ("center", {"forwarded": 1, "failed": 0})


async def test_a_file_that_was_removed_after_the_decision_is_the_centers_to_answer_with():
    assert await ask(HotSet(NotHeldHere("removed")), holds=1) == ("center", {"forwarded": 1, "failed": 0})


async def test_a_worker_that_does_not_start_is_a_failure_of_this_edge_and_not_of_the_client():
    hot_set = HotSet(WorkerFailed("broken"))
    assert await ask(hot_set, line_up=False) == ("WORKER_FAILED", {"forwarded": 0, "failed": 1})
