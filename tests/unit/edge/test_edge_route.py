"""Where a request is answered, as a table."""

import pytest

from deltaic.errors import Code
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import fleet_pb2, inference_pb2
from edge.branch.expected import Expected
from edge.coming import Coming, said_of
from edge.route import Escalate, LoadThenLocal, Local, Refuse, Situation, Timed, ToNeighbour, decide

CHANNEL = ChannelName("assistant", "stable")
OLD = RevisionName("assistant", "sha256:" + "1" * 64)
NEW = RevisionName("assistant", "sha256:" + "2" * 64)
PUBLIC = inference_pb2.SENSITIVITY_PUBLIC
UNLABELLED = inference_pb2.SENSITIVITY_UNSPECIFIED
SENSITIVE = inference_pb2.SENSITIVITY_SENSITIVE
OF_A_NEWER_CLIENT = 77
Phase = fleet_pb2.ModelState.Phase


def best(target, sensitivity, *, line_up, **facts):
    """The first way, or why there is none."""
    found = decide(target, sensitivity, situation=Situation(line_up=line_up), **facts)
    return found if isinstance(found, Refuse) else found[0].way


def not_followed(_target):
    return None


def at_forty_percent(_target):
    return "fetching, 40 %"


@pytest.mark.parametrize(
    ("target", "loaded", "held", "line_up", "expected"),
    [
        pytest.param(CHANNEL, {str(CHANNEL)}, {CHANNEL: OLD}, True, Local(str(CHANNEL)), id="a served channel"),
        pytest.param(CHANNEL, {str(CHANNEL)}, {CHANNEL: OLD}, False, Local(str(CHANNEL)), id="served, line cut"),
        pytest.param(CHANNEL, {str(CHANNEL)}, {CHANNEL: NEW}, True, Local(str(CHANNEL)), id="the old serves meanwhile"),
        pytest.param(CHANNEL, set(), {CHANNEL: OLD}, True, LoadThenLocal(OLD), id="on disk, its worker not up"),
        pytest.param(CHANNEL, set(), {}, True, Escalate(), id="a channel still being fetched"),
        pytest.param(OLD, {str(OLD)}, {OLD: OLD}, True, Local(str(OLD)), id="a loaded revision"),
        pytest.param(OLD, {str(CHANNEL)}, {OLD: OLD}, True, LoadThenLocal(OLD), id="a held revision"),
        pytest.param(OLD, set(), {OLD: OLD}, False, LoadThenLocal(OLD), id="a held revision, line cut"),
        pytest.param(NEW, {str(OLD)}, {OLD: OLD}, True, Escalate(), id="a revision of the center"),
    ],
)
@pytest.mark.parametrize("sensitivity", [PUBLIC, UNLABELLED])
def test_the_nearest_place_answers(target, loaded, held, line_up, expected, sensitivity):
    route = best(target, sensitivity, loaded=loaded.__contains__, held=held.get, coming=not_followed, line_up=line_up)
    if sensitivity == UNLABELLED and expected == Escalate():
        assert isinstance(route, Refuse), "nobody said that it may leave the branch"
        assert (route.error.code, route.error.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")
        assert "--label public" in route.error.hint
    else:
        assert route == expected


def test_with_the_line_cut_what_only_the_center_has_is_refused_by_name():
    route = best(CHANNEL, PUBLIC, loaded=set().__contains__, held={}.get, coming=not_followed, line_up=False)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.UNAVAILABLE, "CENTER_UNREACHABLE")
    assert f"{CHANNEL} is only at the center and the line is cut" in str(route.error)


@pytest.mark.parametrize("loaded", [{str(CHANNEL)}, set()])
@pytest.mark.parametrize("line_up", [True, False])
@pytest.mark.parametrize("sensitivity", [SENSITIVE, OF_A_NEWER_CLIENT])
def test_a_sensitive_request_is_refused_whatever_is_held(loaded, line_up, sensitivity):
    held = {CHANNEL: OLD}.get
    route = best(CHANNEL, sensitivity, loaded=loaded.__contains__, held=held, coming=at_forty_percent, line_up=line_up)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")


def test_a_followed_channel_that_is_not_complete_yet_is_said_to_be_coming():
    facts = {"loaded": set().__contains__, "held": {}.get, "coming": at_forty_percent}
    route = best(CHANNEL, UNLABELLED, line_up=True, **facts)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.UNAVAILABLE, "NOT_COMPLETE_YET")
    said = f"this edge follows {CHANNEL} and has no complete revision of it yet: fetching, 40 %"
    assert route.error.message == said
    assert "try again" in route.error.hint
    assert "deltaic status" in route.error.hint
    assert best(CHANNEL, PUBLIC, line_up=True, **facts) == Escalate()


def test_with_the_line_cut_nobody_is_told_to_follow_what_is_followed():
    route = best(CHANNEL, PUBLIC, loaded=set().__contains__, held={}.get, coming=at_forty_percent, line_up=False)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.UNAVAILABLE, "CENTER_UNREACHABLE")
    assert "fetching, 40 %" in route.error.message
    assert "--channels" not in route.error.hint


@pytest.mark.parametrize(
    ("phase", "detail", "numbers", "said"),
    [
        (Phase.PHASE_FETCHING, "", {}, "fetching begins"),
        (Phase.PHASE_FETCHING, "", {"full_bytes": 200, "reused_bytes": 50, "fetched_bytes": 30}, "fetching, 40 %"),
        (Phase.PHASE_FETCHING, "", {"full_bytes": 200, "fetched_bytes": 230}, "fetching, 100 %"),
        (Phase.PHASE_FETCHING, "no answer", {"full_bytes": 200}, "fetching, 0 %, waiting: no answer"),
        (Phase.PHASE_LOADING, "", {"full_bytes": 200, "reused_bytes": 200}, "its worker is starting"),
        (Phase.PHASE_FAILED, "no room for 9 bytes", {}, "the update failed: no room for 9 bytes"),
    ],
)
def test_how_far_a_channel_is_in_words(phase, detail, numbers, said):
    progress = fleet_pb2.UpdateProgress(**numbers)
    assert said_of(fleet_pb2.ModelState(phase=phase, detail=detail, progress=progress)) == said


@pytest.mark.parametrize(
    ("online", "said"), [(True, "nothing is published on it"), (False, "the center has not been reached")]
)
def test_a_followed_channel_that_was_never_heard_of_is_said_to_be_so(online, said):
    coming = Coming([CHANNEL], list, lambda: online)
    assert coming(CHANNEL) == said
    assert coming(ChannelName("assistant", "canary")) is None
    assert coming(OLD) is None


# ---- neighbours, by expected time

NEAR = ToNeighbour("edge@b", "b:1", str(OLD))
FAR = ToNeighbour("edge@c", "c:1", str(OLD))


def ways(*, here=None, loaded=True, label=PUBLIC, neighbours=(), **facts):
    """The ways in their order; `here` and the neighbours' numbers are seconds to the end of the answer."""
    situation = Situation(
        line_up=facts.pop("line_up", True),
        here=Expected(facts.pop("first", 0.0), here or 0.0),
        neighbours=[Timed(way, Expected(seconds / 2, seconds)) for way, seconds in neighbours],
        **facts,
    )
    keys = {str(OLD)} if here is not None and loaded else set()
    held = {OLD: OLD} if here is not None else {}
    found = decide(OLD, label, loaded=keys.__contains__, held=held.get, coming=not_followed, situation=situation)
    return found.error.reason if isinstance(found, Refuse) else [timed.way for timed in found]


HERE, LOAD, CENTER = Local(str(OLD)), LoadThenLocal(OLD), Escalate()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"here": 2, "neighbours": [(NEAR, 2)]}, [HERE, NEAR, CENTER], id="as fast here"),
        pytest.param({"here": 2, "neighbours": [(NEAR, 1.6)]}, [HERE, NEAR, CENTER], id="nearly a tie"),
        pytest.param({"here": 2, "neighbours": [(NEAR, 1)]}, [NEAR, HERE, CENTER], id="clearly faster there"),
        pytest.param(
            {"here": 9, "loaded": False, "neighbours": [(FAR, 3), (NEAR, 1)]},
            [NEAR, FAR, LOAD, CENTER],
            id="loaded at two, not here",
        ),
        pytest.param(
            {"here": 2, "neighbours": [(FAR, 9), (NEAR, 1)]}, [NEAR, HERE, FAR, CENTER], id="one faster, one slower"
        ),
        pytest.param({"neighbours": [(NEAR, 3)]}, [NEAR, CENTER], id="only there"),
        pytest.param({"neighbours": [(NEAR, 3)], "label": UNLABELLED}, [NEAR], id="unlabelled stays in the branch"),
        pytest.param({"neighbours": [(NEAR, 3)], "label": SENSITIVE}, "SENSITIVE_NOT_ALLOWED", id="sensitive"),
        pytest.param({"neighbours": [(NEAR, 3)], "line_up": False}, [NEAR], id="line cut"),
        pytest.param({"neighbours": [(NEAR, 3)], "may_escalate": False}, [NEAR], id="a tenant that stays"),
        pytest.param({"may_escalate": False}, "ESCALATION_FORBIDDEN", id="a tenant that stays, nobody has it"),
        pytest.param({"neighbours": [(NEAR, 3)], "forwarded": True}, "NOT_HELD_HERE", id="one hop, never two"),
        pytest.param({"here": 2, "neighbours": [(NEAR, 1)], "forwarded": True}, [HERE], id="passed on to here"),
        pytest.param(
            {"here": 9, "first": 5, "loaded": False, "neighbours": [(NEAR, 6)], "seconds": 2},
            [CENTER, NEAR, LOAD],
            id="nobody here in time",
        ),
        pytest.param(
            {"here": 9, "first": 5, "loaded": False, "neighbours": [(NEAR, 3)], "seconds": 2},
            [NEAR, CENTER, LOAD],
            id="a neighbour in time",
        ),
    ],
)
def test_the_branch_answers_where_it_is_fastest_and_the_center_what_the_branch_cannot(facts, expected):
    assert ways(**facts) == expected


def test_the_center_is_asked_for_what_is_held_here_by_its_digest():
    """Its channel may have moved on: nobody sees a newer version and then the older one again."""
    situation = Situation(line_up=True)
    facts = {"loaded": {str(CHANNEL)}.__contains__, "coming": not_followed, "situation": situation}
    found = decide(CHANNEL, PUBLIC, held={CHANNEL: OLD}.get, **facts)
    assert [timed.way for timed in found] == [Local(str(CHANNEL)), Escalate(str(OLD))]
