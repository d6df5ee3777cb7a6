"""Who answers a request for a model that is loaded here, while this edge is busy."""

import pytest

from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2
from edge.branch.branch import Branch
from edge.branch.ways import Here, Policy
from edge.index.entries import Neighbour, RevisionEntry
from edge.index.secret import IndexSecret
from edge.route import Local, ToNeighbour

REVISION = RevisionName("m", f"sha256:{1:064x}")
BUSY = RevisionEntry(held=True, keys=(str(REVISION),), leases=6, running=2, waiting=4, slots=2, seconds_per_token=0.03)
IDLE = {"slots": 2, "seconds_per_token": 0.03}


class Index:
    """Shows one neighbour that has the model loaded."""

    def __init__(self, **load: float) -> None:
        self.load = load

    async def neighbours(self, _target):
        return (Neighbour("b", "b:1", REVISION, loaded=True, held=True, **self.load),)


async def first_way(index: Index):
    branch = Branch(index, lambda _address: None, list, lambda: "a:1", hedge_share=0.0)
    here = Here(
        lambda _key: True, lambda _target: REVISION, lambda _target: None, lambda _revision: BUSY, lambda _revision: 1.0
    )
    ways = branch.ways(here, lambda: True, Policy(), IndexSecret())
    request = inference_pb2.GenerateRequest(model=str(REVISION), prompt="x", max_tokens=64)
    return (await ways.of(REVISION, request, 60.0))[0].way


async def test_a_neighbour_that_is_idle_answers_for_a_busy_edge():
    assert isinstance(await first_way(Index(**IDLE)), ToNeighbour)


@pytest.mark.parametrize("load", [{}, IDLE | {"running": 2, "waiting": 4}])
async def test_one_that_is_as_busy_or_of_which_nothing_is_known_does_not(load):
    assert isinstance(await first_way(Index(**load)), Local)
