"""How long a place is expected to take, as a table, and who is asked about it."""

import pytest

from deltaic.v1 import inference_pb2 as pb
from edge.branch.expected import Place, Work, embedding_work, expected, usual_load_seconds, work_of

WORK = Work(prompt_tokens=100, answer_tokens=50)
IDLE = Place(slots=4, seconds_per_token=0.01)


@pytest.mark.parametrize(
    ("place", "more"),
    [
        pytest.param(Place(slots=4, running=3, seconds_per_token=0.01), 0.0, id="a slot is free"),
        pytest.param(Place(slots=4, running=4, seconds_per_token=0.01), 0.64, id="the next slot that gets free"),
        pytest.param(Place(slots=4, running=4, waiting=4, seconds_per_token=0.01), 3.2, id="after those who wait"),
        pytest.param(Place(slots=4, seconds_per_token=0.01, load_seconds=3.0), 3.0, id="not loaded"),
        pytest.param(
            Place(slots=4, seconds_per_token=0.01, cached_bytes=200), -0.05, id="half of the prompt is cached"
        ),
        pytest.param(Place(slots=4, seconds_per_token=0.01, cached_bytes=9999), -0.1, id="all of it"),
        pytest.param(Place(slots=4, seconds_per_token=0.01, round_trip=0.02), 0.02, id="over a line"),
    ],
)
def test_what_a_place_adds_to_an_idle_one(place, more):
    idle, there = expected(IDLE, WORK), expected(place, WORK)
    assert there.first - idle.first == pytest.approx(more)
    assert there.whole - there.first == pytest.approx(0.5)


def test_a_place_of_which_nothing_is_known_is_neither_free_nor_impossible():
    assert 0 < expected(Place(), WORK).whole < 60


def test_work_is_estimated_without_tokenising():
    messages = [pb.ChatMessage(role="user", content="x" * 400)]
    assert work_of(pb.GenerateRequest(messages=messages, max_tokens=10)) == Work(100, 10)
    assert work_of(pb.GenerateRequest(prompt="x" * 40, max_tokens=100_000)) == Work(10, 256)
    assert embedding_work(pb.EmbedRequest(inputs=["x" * 40, "y" * 40])) == Work(20, 0)


def test_a_larger_file_takes_longer_to_load():
    assert 0 < usual_load_seconds(100 << 20) < usual_load_seconds(4 << 30)
