"""When a second copy is sent, how many may be, and what becomes of the loser."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaic.engine.errors import NoAdapter
from deltaic.errors import DeltaicError, InvalidArgument, NotFound, Unavailable
from edge.branch.hedging import Hedges, raced
from edge.branch.trying import another_may_answer

NEVER = 3_600.0


class Place:
    """Answers with its name when it is told to; remembers what became of it."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.go, self.opened, self.closed = asyncio.Event(), asyncio.Event(), False

    async def __call__(self):
        self.opened.set()
        try:
            await self.go.wait()
            if self.error:
                raise self.error
            for number in range(40):
                yield f"{self.name}{number}"
        finally:
            self.closed = True


def race(first, second, after, *, may=True):
    return raced(first, second, after, goes_on=another_may_answer, may_hedge=lambda: may)


async def all_of(pieces) -> list[str]:
    async with aclosing(pieces):
        return [piece async for piece in pieces]


async def test_the_first_piece_wins_and_the_loser_is_cancelled():
    slow, quick = Place("slow"), Place("quick")
    quick.go.set()
    assert await all_of(race(slow, quick, 0.0)) == [f"quick{number}" for number in range(40)]
    assert slow.opened.is_set()
    assert slow.closed


async def test_a_first_that_begins_in_time_has_no_second():
    first, second = Place("first"), Place("second")
    first.go.set()
    assert (await all_of(race(first, second, NEVER)))[0] == "first0"
    assert not second.opened.is_set()


async def test_a_first_that_failed_before_its_first_piece_is_followed_at_once():
    first, second = Place("first", Unavailable("gone")), Place("second")
    first.go.set()
    second.go.set()
    assert (await all_of(race(first, second, NEVER)))[0] == "second0"


async def test_so_is_one_that_was_not_hedged_because_none_was_left():
    first, second = Place("first", Unavailable("gone")), Place("second")
    second.go.set()
    reading = asyncio.create_task(all_of(race(first, second, 0.0, may=False)))
    await first.opened.wait()
    await asyncio.sleep(0.01)
    assert not second.opened.is_set()
    first.go.set()
    assert (await reading)[0] == "second0"


async def test_a_mistake_of_the_request_is_said_and_tried_nowhere_else():
    first, second = Place("first", InvalidArgument("no")), Place("second")
    first.go.set()
    with pytest.raises(InvalidArgument):
        await all_of(race(first, second, NEVER))
    assert not second.opened.is_set()


@pytest.mark.parametrize("error", [Unavailable("gone"), NotFound("nothing of that name here"), InvalidArgument("no")])
async def test_a_copy_that_fails_does_not_end_the_original(error: DeltaicError):
    first, second = Place("first"), Place("second", error)
    second.go.set()
    reading = asyncio.create_task(all_of(race(first, second, 0.0)))
    await second.opened.wait()
    while not second.closed:
        await asyncio.sleep(0)
    first.go.set()
    assert (await reading)[0] == "first0"


def test_what_one_place_lacks_another_may_have():
    assert another_may_answer(NoAdapter("no adapter legal"))
    assert not another_may_answer(NotFound("no such model"))


async def test_when_both_fail_the_error_is_the_last_ones():
    first, second = Place("first", Unavailable("one")), Place("second", Unavailable("two"))
    first.go.set()
    second.go.set()
    with pytest.raises(Unavailable, match="two"):
        await all_of(race(first, second, NEVER))


async def test_a_reader_that_leaves_ends_both():
    first, second = Place("first"), Place("second")
    reading = asyncio.create_task(all_of(race(first, second, 0.0)))
    await second.opened.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert first.closed
    assert second.closed


def test_nothing_is_hedged_before_enough_is_known_and_then_after_the_p95():
    hedges = Hedges(0.5)
    for number in range(1, 20):
        hedges.asked()
        hedges.arrived(number / 100)
    assert hedges.after(0.0) is None
    hedges.arrived(0.2)
    assert hedges.after(0.0) == pytest.approx(0.19)
    assert hedges.after(3.0) == 6.0, "one that has to load is not late so soon"


@given(st.floats(0.0, 0.5), st.lists(st.booleans(), max_size=400))
def test_never_more_than_its_share_of_the_requests_is_hedged(share, wants):
    hedges = Hedges(share)
    for count, want in enumerate(wants, 1):
        hedges.asked()
        if want:
            hedges.take()
        assert hedges.hedged <= share * count + 1e-9
