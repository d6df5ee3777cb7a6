"""What the gateway refuses, with which status and words; never a traceback, never a quoted prompt."""

import json

import pytest
from played_node import serving, text

from deltaic.engine.errors import BadRequest, NotServed, OutOfTime, PromptTooLong, QueueFull, WorkerDied, WorkerFailed
from deltaic.errors import Unimplemented
from deltaic.gateway.gateway import Limits
from device.errors import KeptOnDevice

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather"}}
SECRET = "swordfish"


def _content(part):
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e999}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -3}, "top_k"),
        ({"min_p": 7}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"seed": 1 << 70}, "seed"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": 3}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(token): 1 for token in range(2_000)}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x"}] * 5_000}, "messages"),
        (_content({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}), "messages[0].content[0]"),
        (_content({"type": "input_audio", "input_audio": {"data": "AAAA"}}), "messages[0].content[0]"),
        (_content({"type": "text"}), "messages[0].content[0].text"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar"),
        ({"adapters": ["a"] * 9}, "adapters"),
        ({"adapters": [3]}, "adapters[0]"),
        ({"sensitivity": "secret"}, "sensitivity"),
        ({"priority": 1}, "priority"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"model": "x" * 300}, "model"),
    ],
)
async def test_a_field_that_is_wrong_is_named(face, node, fields, param):
    answer = await face.chat(**fields)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert node.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt[0]"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "logprobs": -1}, "logprobs"),
        ({}, "prompt"),
    ],
)
async def test_so_it_is_in_completions(face, fields, param):
    answer = await face.post("/v1/completions", {"model": "assistant", **fields})
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["x"] * 2_049}, "input"),
        ({"input": "x", "encoding_format": "gzip"}, "encoding_format"),
    ],
)
async def test_and_in_embeddings(face, fields, param):
    answer = await face.post("/v1/embeddings", {"model": "assistant", **fields})
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"model": "assistant", "messages": NaN}',
        b"\xff\xfe\x00",
        b'{"model": "\xc3\x28"}',
        b'{"model": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
    ],
)
async def test_a_body_that_is_no_json_object_is_one_clear_error(face, body):
    answer = await face.post(CHAT, body)
    assert (answer.status, answer.error["code"]) == (400, "bad_body")


async def test_deep_json_in_a_field_that_takes_any_is_refused_too(face):
    deep = b'{"x":' * 5_000 + b"1" + b"}" * 5_000
    body = b'{"model": "assistant", "messages": [{"role": "user", "content": "x"}], "response_format": %s}' % (
        b'{"type": "json_schema", "json_schema": {"schema": %s}}' % deep
    )
    assert (await face.post(CHAT, body)).status == 400


async def test_a_prompt_is_never_quoted_in_an_error(face):
    bad = {"model": "assistant", "messages": [{"role": "user", "content": {"text": SECRET}}], "stop": [SECRET * 99]}
    answer = await face.post(CHAT, bad)
    assert answer.status == 400
    assert SECRET.encode() not in answer.raw


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_does_not_say_it_is_json_is_refused_as_pages_in_browsers_send_such(face, kind):
    answer = await face.post(CHAT, {"model": "assistant"}, content_type=kind)
    assert (answer.status, answer.error["code"]) == (415, "not_json_content")


async def test_a_body_over_the_limit_is_refused_before_it_is_all_there(node):
    async with serving(node, Limits(body_bytes=1_000)) as face:
        answer = await face.chat(user="x" * 2_000)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert (await face.chat()).status == 200


async def test_what_clients_say_beyond_what_is_known_is_passed_over(face):
    assert (await face.chat(store=True, metadata={"a": "b"}, service_tier="auto", reasoning_effort="low")).status == 200


@pytest.mark.parametrize("name", ["Not A Name", "a/b/c/d/e", "assistant@", "assistant@sha256:12", "@canary"])
async def test_a_name_that_is_none_is_a_bad_request(face, name):
    answer = await face.chat(model=name)
    assert (answer.status, answer.error["code"]) == (400, "bad_name")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BadRequest("odd", field="sampling.top_k"), 400, "invalid_request_error"),
        (PromptTooLong("long"), 400, "invalid_request_error"),
        (NotServed("no such model"), 404, "not_found_error"),
        (KeptOnDevice("stays"), 403, "permission_error"),
        (QueueFull("full"), 429, "rate_limit_error"),
        (WorkerFailed("does not start"), 503, "server_error"),
        (WorkerDied("died"), 503, "server_error"),
        (OutOfTime("late"), 504, "timeout_error"),
        (Unimplemented("not here"), 501, "server_error"),
        (ZeroDivisionError("oops"), 500, "server_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_node_refuses_with_is_a_status_as_long_as_nothing_was_said(
    face, node, error, status, kind, stream, caplog
):
    node.pieces, node.error = [], error
    answer = await face.chat(stream=stream)
    assert (answer.status, answer.error["type"]) == (status, kind)
    assert "oops" not in answer.raw.decode()


async def test_a_full_queue_says_when_to_try_again(face, node):
    node.pieces, node.error = [], QueueFull("full", retry_after_ms="1500")
    headers = (await face.chat()).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(face, node):
    node.pieces, node.error = [text("half an")], WorkerDied("the worker died while it answered")
    answer = await face.chat(stream=True)
    assert answer.status == 200
    last = answer.events[-1]
    assert last["event"] == "error"
    assert last["error"]["code"] == "worker_died"
    assert "[DONE]" not in answer.events


async def test_an_error_after_some_text_is_a_status_where_nothing_is_streamed(face, node):
    node.pieces, node.error = [text("half an")], WorkerDied("died")
    assert (await face.chat()).status == 503


async def test_paths_and_methods_that_are_not_there_have_the_same_shape(face):
    missing = await face.send("GET", "/v2/models")
    assert (missing.status, missing.error["code"]) == (404, "no_such_route")
    wrong = await face.send("GET", CHAT)
    assert (wrong.status, wrong.error["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "4000"])
async def test_a_deadline_that_is_none_is_refused(face, seconds):
    answer = await face.chat(headers={"x_deltaic_timeout": seconds})
    assert (answer.status, answer.error["param"]) == (400, "X-Deltaic-Timeout")


async def test_a_sensitivity_that_is_none_is_refused(face, node):
    assert (await face.chat(headers={"x_deltaic_sensitivity": "pubic"})).status == 400
    assert node.requests == []


async def test_a_request_id_that_could_not_travel_is_replaced(face):
    answer = await face.chat(headers={"x_request_id": "é" * 3})
    assert answer.status == 200
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_page_that_calls_this_machine_by_a_name_of_its_own_is_refused(node):
    async with serving(node, this_machine_only=True) as face:
        assert (await face.send("GET", "/v1/models", host="evil.example:80")).error["code"] == "foreign_host"
        for host in (f"127.0.0.1:{face.port}", f"localhost:{face.port}", "localhost", "[::1]:80"):
            assert (await face.send("GET", "/v1/models", host=host)).status == 200


async def test_an_error_is_never_taken_from_a_cache(face):
    assert (await face.send("GET", "/v2")).headers["cache-control"] == "no-store"


async def test_a_schema_of_a_tool_is_passed_on_as_it_is(face, node):
    parameters = {"type": "object", "properties": {"ü": {"enum": [1, 2.5, None, True]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    await face.chat(tools=[tool])
    assert json.loads(node.requests[0].tools[0].parameters) == parameters
