"""The door: closed while draining, and every visit counted by how it ended and where it was answered."""

import asyncio
from contextlib import aclosing

import pytest
from played_node import REVISION, PlayedNode, end, text

from deltaic.errors import DeltaicError, Internal, NotFound
from deltaic.v1 import inference_pb2
from edge.errors import CenterUnreachable, EdgeDraining, HotSetFull, SensitiveNotAllowed
from edge.operation.counts import Counts, Ended, Place
from edge.operation.door import Door
from edge.spool.tally import Tally

CHANNEL = "models/assistant/channels/stable"
REQUEST = inference_pb2.GenerateRequest(model=CHANNEL)


class Desk:
    """A door before a node that plays, and what was noted for the log."""

    def __init__(self, node: PlayedNode) -> None:
        self.notes: list[tuple[str, str, dict[str, str]]] = []
        self.counts = Counts()
        self.tally = Tally(lambda action, resource, **details: self.notes.append((action, resource, details)))
        self.door = Door(node, "edge@test", self.counts, self.tally)

    async def ask(self) -> list[inference_pb2.GenerateResponse]:
        return [piece async for piece in self.door.generate(REQUEST, 5.0)]

    def noted(self) -> list[tuple[str, str, dict[str, str]]]:
        self.tally.flush()
        return self.notes


def completed(role: inference_pb2.NodeRole.ValueType, node: str) -> inference_pb2.GenerateResponse:
    piece: inference_pb2.GenerateResponse = end()
    piece.completion.answered_by, piece.completion.node = role, node
    return piece


@pytest.mark.parametrize(
    ("role", "node", "place", "action"),
    [
        (inference_pb2.NODE_ROLE_EDGE, "edge@test", Place.LOCAL, "EDGE_ANSWERED"),
        (inference_pb2.NODE_ROLE_EDGE, "edge@other", Place.NEIGHBOUR, "EDGE_FORWARDED"),
        (inference_pb2.NODE_ROLE_CENTER, "center@x", Place.CENTER, "EDGE_FORWARDED"),
    ],
)
async def test_an_answer_counts_where_it_says_that_it_was_made(
    role: inference_pb2.NodeRole.ValueType, node: str, place: Place, action: str
) -> None:
    desk = Desk(PlayedNode([text("a"), completed(role, node)]))
    await desk.ask()
    await desk.ask()
    assert desk.counts.requests == {(Ended.ANSWERED, place): 2}
    fact = "to" if action == "EDGE_FORWARDED" else "place"
    assert desk.noted() == [(action, REVISION, {"count": "2", fact: place.value})]


@pytest.mark.parametrize(
    ("error", "ended", "noted"),
    [
        (SensitiveNotAllowed("no"), Ended.REFUSED, [("EDGE_REFUSED", CHANNEL, "SENSITIVE_NOT_ALLOWED")]),
        (CenterUnreachable("cut"), Ended.REFUSED, []),
        (HotSetFull("full"), Ended.REFUSED, []),
        (NotFound("what?"), Ended.INVALID, []),
        (Internal("oh"), Ended.FAILED, []),
        (RuntimeError("oh"), Ended.FAILED, []),
    ],
)
async def test_an_error_counts_by_whose_it_is_and_only_policy_is_logged(
    error: Exception, ended: Ended, noted: list[tuple[str, str, str]]
) -> None:
    desk = Desk(PlayedNode([], error=error))
    with pytest.raises(type(error)):
        await desk.ask()
    assert desk.counts.requests == {(ended, Place.NOWHERE): 1}
    assert [(action, resource, details["reason"]) for action, resource, details in desk.noted()] == noted


async def test_a_draining_door_refuses_what_is_new_and_lets_what_is_inside_end() -> None:
    node = PlayedNode([text("a"), end()])
    desk = Desk(node)
    async with aclosing(desk.door.generate(REQUEST, 5.0)) as pieces:
        await anext(pieces)
        desk.door.draining = True
        assert desk.door.in_flight == 1
        with pytest.raises(EdgeDraining) as refused:
            await desk.ask()
        assert int(refused.value.metadata["retry_after_ms"]) > 0
        with pytest.raises(EdgeDraining):
            await desk.door.embed(inference_pb2.EmbedRequest(model=CHANNEL), 5.0)
        assert (await desk.door.list_models(5.0)).models
        assert [piece async for piece in pieces][-1].HasField("completion")
    assert desk.door.in_flight == 0
    desk.door.draining = False
    await desk.ask()
    assert len(node.requests) == 2, "what was refused came no further"


async def test_a_client_that_goes_away_is_counted_as_gone_and_leaves_nothing_in_flight() -> None:
    desk = Desk(PlayedNode([text("a")], endless="b"))
    async with aclosing(desk.door.generate(REQUEST, 5.0)) as pieces:
        await anext(pieces)
    assert desk.counts.requests == {(Ended.GONE, Place.NOWHERE): 1}
    assert desk.door.in_flight == 0


async def test_what_a_client_calls_a_model_is_logged_only_if_it_is_a_name() -> None:
    desk = Desk(PlayedNode([], error=SensitiveNotAllowed("no")))
    with pytest.raises(DeltaicError):
        async for _ in desk.door.generate(inference_pb2.GenerateRequest(model="My PIN is 1234"), 5.0):
            pass
    assert [resource for _, resource, _ in desk.noted()] == ["unknown"]


def test_of_too_many_kinds_the_rest_are_counted_together() -> None:
    notes: list[dict[str, str]] = []
    tally = Tally(lambda _action, _resource, **details: notes.append(details))
    for number in range(3_000):
        tally.count("EDGE_ANSWERED", f"r{number}", "place", "local")
    tally.flush()
    assert len(notes) == 1_001
    assert sum(int(details["count"]) for details in notes) == 3_000
    tally.flush()
    assert len(notes) == 1_001, "nothing is said twice"


async def test_the_tally_says_what_is_left_when_it_ends() -> None:
    notes: list[str] = []
    tally = Tally(lambda action, _resource, **_details: notes.append(action))
    task = asyncio.create_task(tally.run())
    await asyncio.sleep(0)
    tally.count("EDGE_ANSWERED", "r", "place", "local")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert notes == ["EDGE_ANSWERED"]
