"""Logs: one JSON object a line whoever writes it, with the request id, and without the values of variables."""

import json
import subprocess
import sys
from typing import Any

import pytest

START = """
import logging, structlog
from deltaic.runtime.logs import configure_logs
configure_logs({level!r}, json={json})
log = structlog.get_logger("trial")
"""


def logged(code: str, *, level: str = "info", as_json: bool | None = True) -> str:
    """What a process that runs `code` writes to stderr."""
    program = START.format(level=level, json=as_json) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr


def lines(code: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(code, **options).splitlines()]


def test_a_line_is_one_json_object_with_its_facts() -> None:
    (line,) = lines('log.info("fetch.started", bytes=12, text="two\\nlines")')
    assert (line["event"], line["bytes"], line["text"]) == ("fetch.started", 12, "two\nlines")
    assert (line["level"], line["logger"]) == ("info", "trial")
    assert line["timestamp"].endswith("Z")


def test_the_standard_librarys_logs_have_the_same_form() -> None:
    (line,) = lines('logging.getLogger("grpc").warning("lost %d", 3)')
    assert (line["event"], line["level"], line["logger"]) == ("lost 3", "warning", "grpc")


def test_the_request_id_that_is_bound_is_in_every_line() -> None:
    code = 'structlog.contextvars.bind_contextvars(request_id="r1"); log.info("a"); logging.getLogger("b").info("b")'
    assert [line["request_id"] for line in lines(code)] == ["r1", "r1"]


@pytest.mark.parametrize(("level", "events"), [("debug", "abc"), ("info", "bc"), ("error", "c")])
def test_only_what_was_asked_for_is_logged(level: str, events: str) -> None:
    code = 'log.debug("a"); log.info("b"); log.error("c")'
    assert [line["event"] for line in lines(code, level=level)] == list(events)


FAILING = """
def answer(prompt):
    secret_plan = prompt
    raise RuntimeError("it broke")
try:
    answer("the quiet " + "canary")
except RuntimeError:
    log.exception("rpc.failed")
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_tells_where_and_never_the_values(as_json: bool) -> None:
    text = logged(FAILING, as_json=as_json)
    assert "it broke" in text
    assert "RuntimeError" in text
    assert "the quiet canary" not in text


def test_a_traceback_is_still_one_line_of_json() -> None:
    (line,) = lines(FAILING)
    assert line["event"] == "rpc.failed"


def test_logs_are_json_by_themselves_when_nobody_watches() -> None:
    assert lines('log.info("a")', as_json=None)[0]["event"] == "a"


def test_people_get_lines_without_json() -> None:
    text = logged('log.info("fetch.started", bytes=12)', as_json=False)
    assert "fetch.started" in text
    assert not text.startswith("{")
