"""Where a request is answered, as a table."""

import pytest

from deltaic.errors import Code
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import inference_pb2
from edge.route import Escalate, LoadThenLocal, Local, Refuse, decide

CHANNEL = ChannelName("assistant", "stable")
OLD = RevisionName("assistant", "sha256:" + "1" * 64)
NEW = RevisionName("assistant", "sha256:" + "2" * 64)
PUBLIC = inference_pb2.SENSITIVITY_PUBLIC
UNLABELLED = inference_pb2.SENSITIVITY_UNSPECIFIED
SENSITIVE = inference_pb2.SENSITIVITY_SENSITIVE


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
    route = decide(target, sensitivity, loaded=loaded.__contains__, held=held.get, line_up=line_up)
    if sensitivity == UNLABELLED and expected == Escalate():
        assert isinstance(route, Refuse), "nobody said that it may leave the branch"
        assert (route.error.code, route.error.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")
        assert "--label public" in route.error.hint
    else:
        assert route == expected


def test_with_the_line_cut_what_only_the_center_has_is_refused_by_name():
    route = decide(CHANNEL, PUBLIC, loaded=set().__contains__, held={}.get, line_up=False)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.UNAVAILABLE, "CENTER_UNREACHABLE")
    assert f"{CHANNEL} is only at the center and the line is cut" in str(route.error)


@pytest.mark.parametrize("loaded", [{str(CHANNEL)}, set()])
@pytest.mark.parametrize("line_up", [True, False])
def test_a_sensitive_request_is_refused_whatever_is_held(loaded, line_up):
    route = decide(CHANNEL, SENSITIVE, loaded=loaded.__contains__, held={CHANNEL: OLD}.get, line_up=line_up)
    assert isinstance(route, Refuse)
    assert (route.error.code, route.error.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")
