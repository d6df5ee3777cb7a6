"""What the gateway answers with: bodies, events, headers, models."""

import base64

import pytest
from played_node import CANARY, REVISION, call, end, floats_of, serving, text, token
from structlog.testing import capture_logs

from deltaic.errors import NotFound
from deltaic.v1 import inference_pb2 as pb

PROMPT = {"model": "assistant", "prompt": "Once"}


async def test_a_chat_is_answered_with_text_usage_and_where_it_was_made(face):
    answer = await face.chat()
    assert answer.status == 200
    body = answer.json
    assert body["object"] == "chat.completion"
    assert body["model"] == "assistant"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello you", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"], body["usage"]["total_tokens"]) == (
        *(7, 2, 9),
    )
    assert body["system_fingerprint"] == "ab" * 6
    assert body["deltaic"]["revision"] == REVISION
    assert body["deltaic"]["timings"]["first_token_ms"] == 2


async def test_headers_say_where_an_answer_was_made(face):
    headers = (await face.chat(headers={"x_request_id": "abc-1"})).headers
    assert headers["x-deltaic-revision"] == REVISION
    assert headers["x-deltaic-node"] == "edge@test"
    assert headers["x-deltaic-answered-by"] == "edge"
    assert headers["x-request-id"] == "abc-1"


async def test_a_stream_has_a_role_texts_an_end_and_done(face):
    answer = await face.chat(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = answer.events
    assert done == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hello"}, {"content": " you"}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert events[-1]["deltaic"]["node"] == "edge@test"
    assert events[-1]["system_fingerprint"] == "ab" * 6
    assert all("usage" not in event for event in events)


async def test_usage_comes_last_in_a_stream_that_asks_for_it(face):
    *events, usage, done = (await face.chat(stream=True, stream_options={"include_usage": True})).events
    assert done == "[DONE]"
    assert all(event["usage"] is None for event in events)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 9


async def test_text_that_would_break_a_line_or_a_string_arrives_as_it_is(face, node):
    odd = 'a\n\ndata: [DONE]\n\n"\\\u2028\x00 你好 🎉'
    node.pieces = [text(odd), end()]
    assert (await face.chat()).json["choices"][0]["message"]["content"] == odd
    assert (await face.chat(stream=True)).events[1]["choices"][0]["delta"]["content"] == odd


async def test_choices_are_kept_apart_and_their_prompt_counts_once(face, node):
    node.pieces = [text("a", 0), text("b", 1), text("B", 1), end(1, cached=6), text("A", 0), end(0, cached=3)]
    body = (await face.chat(n=2)).json
    assert [choice["message"]["content"] for choice in body["choices"]] == ["aA", "bB"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 4)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert node.requests[0].choices == 2
    events = (await face.chat(n=2, stream=True)).events[:-1]
    for index, said in enumerate(("aA", "bB")):
        deltas = [each["choices"][0]["delta"] for each in events if each["choices"][0]["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == said


async def test_an_answer_that_ends_without_saying_how_is_an_error(face, node):
    node.pieces = [text("half")]
    answer = await face.chat()
    assert (answer.status, answer.error["code"]) == (503, "answer_cut")


async def test_calls_of_tools_come_whole(face, node):
    node.pieces = [
        call("weather", '{"city": "Bern"}', "call_1"),
        call("time", "{}", "call_2"),
        end(reason=pb.Completion.FINISH_REASON_TOOL_CALLS),
    ]
    choice = (await face.chat()).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0] == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
    }
    deltas = [each["choices"][0]["delta"] for each in (await face.chat(stream=True)).events[:-1]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [(each["index"], each["id"]) for each in calls] == [(0, "call_1"), (1, "call_2")]


async def test_log_probabilities_have_the_shape_of_chats(face, node):
    node.pieces = [text("é", logprobs=[token(b"\xc3", -0.5, (b"\xc3", -0.5)), token(b"\xa9", -0.25)]), end()]
    content = (await face.chat(logprobs=True, top_logprobs=1)).json["choices"][0]["logprobs"]["content"]
    assert [(each["bytes"], each["logprob"]) for each in content] == [([0xC3], -0.5), ([0xA9], -0.25)]
    assert content[0]["top_logprobs"][0]["bytes"] == [0xC3]
    assert node.requests[0].top_logprobs == 1
    streamed = (await face.chat(logprobs=True, stream=True)).events[1]["choices"][0]
    assert streamed["logprobs"]["content"][1]["bytes"] == [0xA9]
    assert streamed["delta"] == {"content": "é"}


async def test_log_probabilities_have_the_older_shape_in_completions(face, node):
    node.pieces = [
        text("ab", logprobs=[token(b"ab", -1.0, (b"ab", -1.0), (b"x", -2.0))]),
        text("c", logprobs=[token(b"c", -0.5)]),
        end(),
    ]
    whole = (await face.post("/v1/completions", PROMPT | {"logprobs": 2})).json["choices"][0]["logprobs"]
    assert whole["tokens"] == ["ab", "c"]
    assert whole["token_logprobs"] == [-1.0, -0.5]
    assert whole["top_logprobs"] == [{"ab": -1.0, "x": -2.0}, {}]
    assert whole["text_offset"] == [0, 2]
    events = (await face.post("/v1/completions", PROMPT | {"logprobs": 2, "stream": True})).events
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in events[:2]] == [[0], [2]]


async def test_a_completion_is_text(face, node):
    body = (await face.post("/v1/completions", PROMPT)).json
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "Hello you", "logprobs": None, "finish_reason": "stop"}]
    assert node.requests[0].prompt == "Once"
    events = (await face.post("/v1/completions", PROMPT | {"stream": True})).events
    assert [each["choices"][0]["text"] for each in events[:-1]] == ["Hello", " you", ""]


async def test_several_prompts_are_numbered_through(face, node):
    node.pieces = [text("x", 1), end(1), text("y", 0), end(0)]
    body = (await face.post("/v1/completions", {"model": "assistant", "prompt": ["p", "q"], "n": 2})).json
    assert [(each["index"], each["text"]) for each in body["choices"]] == [(0, "y"), (1, "x"), (2, "y"), (3, "x")]
    assert [request.prompt for request in node.requests] == ["p", "q"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (14, 8)


async def test_vectors_come_as_numbers_or_as_base64(face, node):
    body = {"model": "assistant", "input": ["one", "three"]}
    answer = await face.post("/v1/embeddings", body)
    assert [each["embedding"] for each in answer.json["data"]] == [[3.0, 0.5], [5.0, 0.5]]
    assert answer.json["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert answer.headers["x-deltaic-answered-by"] == "device"
    packed = (await face.post("/v1/embeddings", body | {"encoding_format": "base64"})).json["data"][1]["embedding"]
    assert floats_of(base64.b64decode(packed)) == [5.0, 0.5]


async def test_many_inputs_are_sent_in_parts_and_come_back_in_order(face, node):
    inputs = ["x" * (1 + index % 7) for index in range(300)]
    answer = await face.post("/v1/embeddings", {"model": "assistant", "input": inputs})
    assert [each["embedding"][0] for each in answer.json["data"]] == [len(each) for each in inputs]
    assert [len(request.inputs) for request in node.embedded] == [128, 128, 44]


async def test_other_dimensions_than_the_models_are_refused(face):
    body = {"model": "assistant", "input": "one", "dimensions": 3}
    answer = await face.post("/v1/embeddings", body)
    assert (answer.status, answer.error["param"]) == (400, "dimensions")
    assert (await face.post("/v1/embeddings", body | {"dimensions": 2})).status == 200


async def test_models_are_listed_under_names_that_requests_may_use(face, node):
    listed = (await face.send("GET", "/v1/models")).json
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert names == ["assistant@canary", "assistant", "assistant@sha256:" + "ab" * 32]
    for name, meant in zip(names, ("/channels/canary", "/channels/stable", "/revisions/sha256:"), strict=True):
        await face.chat(model=name)
        assert meant in node.requests[-1].model


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("assistant", REVISION),
        ("models/assistant", REVISION),
        ("assistant@canary", CANARY),
        ("assistant/canary", CANARY),
        ("models/assistant/channels/canary", CANARY),
        ("assistant@sha256:" + "cd" * 32, CANARY),
        ("models/assistant/revisions/sha256:" + "cd" * 32, CANARY),
    ],
)
async def test_one_model_is_found_by_all_its_names(face, name, revision):
    model = (await face.send("GET", f"/v1/models/{name}")).json
    assert (model["id"], model["object"], model["deltaic"]["revision"]) == (name, "model", revision)


async def test_a_model_that_is_not_served_is_not_found(face):
    answer = await face.send("GET", "/v1/models/other")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_health_is_that_of_the_node(face, node):
    assert (await face.send("GET", "/healthz")).json == {"status": "ok"}
    node.error = NotFound("gone")
    assert (await face.send("GET", "/healthz")).status == 404


async def test_metrics_are_there_when_the_node_has_some(face, node):
    assert (await face.send("GET", "/metrics")).status == 404
    async with serving(node, metrics=lambda: b"deltaic_up 1\n") as other:
        answer = await other.send("GET", "/metrics")
    assert (answer.status, answer.raw) == (200, b"deltaic_up 1\n")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_one_line_of_the_log_says_what_was_answered_and_not_a_word_of_it(node):
    with capture_logs() as logs:
        async with serving(node) as face:
            await face.chat(messages=[{"role": "user", "content": "swordfish"}], stream=True)
            await face.chat(messages=[{"role": "user", "content": "swordfish"}], temperature=-1)
    served, refused = [line for line in logs if line["event"] == "http.served"]
    assert (served["status"], served["model"]) == (200, "models/assistant/channels/stable")
    assert (served["method"], served["path"], served["completion_tokens"]) == ("POST", "/v1/chat/completions", 2)
    assert (refused["status"], refused["reason"]) == (400, "BAD_BODY")
    assert "swordfish" not in str(logs)
    assert "Hello" not in str(logs)
