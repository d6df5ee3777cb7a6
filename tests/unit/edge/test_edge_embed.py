"""Embedding at an edge: decided as an answer is, counted as an answer is."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from test_edge_answer import Mirror, answers_of

from deltaic.engine.errors import BadRequest
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2 as pb
from edge import places
from edge.statistics import RequestStatistics

REVISION = RevisionName("m", f"sha256:{1:064x}")


class HotSet:
    """Has one revision loaded, or none."""

    def __init__(self, loaded: bool) -> None:
        self._loaded = loaded

    def loaded(self, _key: str) -> bool:
        return self._loaded

    @asynccontextmanager
    async def lease(self, _key: str):
        yield "worker"


class Line:
    def __init__(self, up: bool) -> None:
        self.up = up

    async def embed(self, _target, _request, seconds: float) -> pb.EmbedResponse:
        assert 0 < seconds <= 5
        return pb.EmbedResponse(node="center")


async def embed(monkeypatch, *, loaded: bool, label: int, worker=None, line_up: bool = True):
    """Who embedded (or the reason why nobody did), and what was counted: answered, forwarded, failed."""

    async def here(_leased, _request, _remaining) -> pb.EmbedResponse:
        if worker:
            raise worker
        return pb.EmbedResponse(node="edge")

    monkeypatch.setattr(places, "embed", here)
    statistics = RequestStatistics()
    answers = answers_of(HotSet(loaded), Mirror(0), Line(line_up), statistics)
    try:
        said = (await answers.embed(pb.EmbedRequest(model=str(REVISION), inputs=["x"], sensitivity=label), 5.0)).node
    except (DeltaicError, asyncio.CancelledError) as error:
        said = getattr(error, "reason", "CANCELLED")
    totals = statistics.totals()
    return said, (totals.answered, totals.forwarded, totals.failed)


@pytest.mark.parametrize("label", [pb.SENSITIVITY_PUBLIC, pb.SENSITIVITY_UNSPECIFIED])
async def test_a_model_that_is_loaded_here_embeds_here(monkeypatch, label):
    assert await embed(monkeypatch, loaded=True, label=label) == ("edge", (1, 0, 0))


async def test_what_only_the_center_has_is_embedded_there_when_it_is_public(monkeypatch):
    assert await embed(monkeypatch, loaded=False, label=pb.SENSITIVITY_PUBLIC) == ("center", (0, 1, 0))
    said, counted = await embed(monkeypatch, loaded=False, label=pb.SENSITIVITY_UNSPECIFIED)
    assert (said, counted) == ("SENSITIVE_NOT_ALLOWED", (0, 0, 0))


async def test_sensitive_texts_are_refused_even_where_the_model_is(monkeypatch):
    said, counted = await embed(monkeypatch, loaded=True, label=pb.SENSITIVITY_SENSITIVE)
    assert (said, counted) == ("SENSITIVE_NOT_ALLOWED", (0, 0, 0))


async def test_a_cut_line_is_a_failure_and_a_bad_text_is_the_clients(monkeypatch):
    said, counted = await embed(monkeypatch, loaded=False, label=pb.SENSITIVITY_PUBLIC, line_up=False)
    assert (said, counted) == ("CENTER_UNREACHABLE", (0, 0, 1))
    said, counted = await embed(monkeypatch, loaded=True, label=pb.SENSITIVITY_PUBLIC, worker=BadRequest("long"))
    assert (said, counted) == ("BAD_REQUEST", (0, 0, 0))


async def test_a_client_that_leaves_is_counted_nowhere(monkeypatch):
    gone = asyncio.CancelledError()
    assert await embed(monkeypatch, loaded=True, label=pb.SENSITIVITY_PUBLIC, worker=gone) == (
        "CANCELLED",
        (0, 0, 0),
    )
