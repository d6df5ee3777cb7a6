"""What becomes of a request whose first way fails, before and after its first piece."""

import pytest

from deltaic.engine.errors import QueueFull, WorkerDied, WorkerFailed
from deltaic.errors import InvalidArgument
from edge.branch.breakers import BreakerLimits, Breakers
from edge.branch.hedging import Hedges
from edge.branch.trying import Trying
from edge.branch.ways import CENTER
from edge.errors import CenterUnreachable, NeighbourLacks, NeighbourLost
from edge.route import Escalate, Local, Timed, ToNeighbour

NEAR, HERE = ToNeighbour("edge@b", "b:1", "m"), Local("m")
NAMES = {NEAR: "neighbour", HERE: "here", Escalate(): "center"}


class Branch:
    """Places that answer with their names, or fail: before their first piece, or after it."""

    def __init__(self, before=None, after=None, failures: int = 1) -> None:
        self.before, self.after = before or {}, after or {}
        self.breakers = Breakers(BreakerLimits(failures=failures))
        self.now, self.asked = 0.0, []
        self.trying = Trying(self.breakers, Hedges(0.0), lambda: self.now)

    async def open(self, way):
        self.asked.append(NAMES[way])
        if way in self.before:
            raise self.before[way]
        yield NAMES[way]
        if way in self.after:
            raise self.after[way]
        yield "."

    async def ask(self, *ways) -> str:
        timed = [Timed(way) for way in ways]
        return "".join([piece async for _, piece in self.trying.stream(timed, self.open, 10.0)])


@pytest.mark.parametrize("error", [NeighbourLost("gone"), NeighbourLacks("evicted"), QueueFull("full")])
async def test_a_neighbour_that_fails_before_its_first_piece_is_followed_by_the_next_way(error):
    branch = Branch(before={NEAR: error})
    assert await branch.ask(NEAR, HERE, Escalate()) == "here."


async def test_a_worker_that_does_not_start_here_is_followed_by_the_center():
    assert await Branch(before={HERE: WorkerFailed("broken")}).ask(HERE, Escalate()) == "center."


@pytest.mark.parametrize("error", [InvalidArgument("too long"), WorkerDied("crash")])
async def test_what_is_wrong_with_the_request_or_killed_a_worker_is_tried_nowhere_else(error):
    branch = Branch(before={NEAR: error})
    with pytest.raises(type(error)):
        await branch.ask(NEAR, HERE)
    assert branch.asked == ["neighbour"]


async def test_after_the_first_piece_a_lost_neighbour_is_said():
    branch = Branch(after={NEAR: NeighbourLost("gone")})
    with pytest.raises(NeighbourLost):
        await branch.ask(NEAR, HERE)
    assert branch.asked == ["neighbour"]


async def test_the_last_error_is_the_answer_when_no_way_is_left():
    branch = Branch(before={NEAR: NeighbourLost("gone"), Escalate(): CenterUnreachable("cut")})
    with pytest.raises(CenterUnreachable):
        await branch.ask(NEAR, Escalate())


async def test_silence_opens_a_breaker_and_a_refusal_does_not():
    branch = Branch(before={NEAR: NeighbourLost("gone"), Escalate(): QueueFull("full")})
    with pytest.raises(QueueFull):
        await branch.ask(NEAR, Escalate())
    assert not branch.breakers.allows("b:1", branch.now)
    assert branch.breakers.allows(CENTER, branch.now)
    branch.before = {}
    assert await branch.ask(NEAR, HERE) == "here.", "it is left alone for a while"
    branch.now = 5.0
    assert await branch.ask(NEAR, HERE) == "neighbour."


async def test_a_caller_that_leaves_says_nothing_about_a_place():
    branch = Branch(before={NEAR: NeighbourLost("gone")})
    await branch.ask(NEAR, HERE)
    branch.before, branch.now = {}, 1.0
    pieces = branch.trying.stream([Timed(NEAR), Timed(HERE)], branch.open, 10.0)
    await pieces.aclose()
    assert branch.breakers.allows("b:1", branch.now)


async def test_a_call_with_one_answer_goes_the_same_ways():
    branch = Branch()

    async def call(way):
        if way == NEAR:
            raise NeighbourLost("gone")
        return NAMES[way]

    assert await branch.trying.call([Timed(NEAR), Timed(HERE)], call, 5.0) == (HERE, "here")
