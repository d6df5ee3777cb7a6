"""Errors to HTTP statuses, all of them, in one place."""

import pytest

from deltaic.engine.errors import QueueFull
from deltaic.errors import Code, DeltaicError
from deltaic.rpc.http_status import HTTP_STATUS, http_status, retry_headers
from deltaic.rpc.status import RemoteError


def test_every_code_has_a_status_of_an_error():
    assert set(HTTP_STATUS) == set(Code)
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED", 403),
        (Code.FAILED_PRECONDITION, "SENSITIVE_NEEDS_LOCAL_MODEL", 403),
        (Code.FAILED_PRECONDITION, "SOMETHING_ELSE", 409),
        (Code.FAILED_PRECONDITION, "WORKER_FAILED", 503),
        (Code.RESOURCE_EXHAUSTED, "TOO_LARGE", 413),
        (Code.UNAVAILABLE, "WORKER_DIED", 503),
        (Code.UNKNOWN, "WHATEVER", 500),
    ],
)
def test_a_reason_may_say_more_than_its_code_also_when_it_came_from_another_node(code, reason, status):
    assert http_status(RemoteError(code, reason, "so")) == status


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [("1", "1"), ("999.5", "1"), ("1001", "2"), ("0", "1"), ("60000", "60")]
)
def test_when_to_try_again_is_said_in_whole_seconds_rounded_up(milliseconds, seconds):
    assert retry_headers(QueueFull("full", retry_after_ms=milliseconds))["retry-after"] == seconds


@pytest.mark.parametrize("milliseconds", ["", "soon", "-5", "nan", "inf"])
def test_what_is_no_time_is_not_said(milliseconds):
    assert retry_headers(QueueFull("full", retry_after_ms=milliseconds)) == {}
    assert retry_headers(DeltaicError("plain")) == {}
