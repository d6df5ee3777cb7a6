"""The `openai` package, as it is, in front of the gateway: sync and async, streaming and not."""

import asyncio
from functools import partial

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from played_node import call, end, text, token

from deltaic.engine.errors import NotServed, QueueFull, WorkerDied
from deltaic.v1 import inference_pb2 as pb

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(face):
    async with AsyncOpenAI(base_url=face.url, api_key="sk-test", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def ask(client):
    return partial(client.chat.completions.create, model="assistant", messages=MESSAGES)


async def test_chat(ask):
    answer = await ask(max_tokens=5, temperature=0, seed=1, stop=["x"], user="eva")
    assert answer.choices[0].message.content == "Hello you"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 9
    assert answer.model_extra["deltaic"]["node"] == "edge@test"


async def test_streaming_chat_with_usage(ask):
    chunks = [chunk async for chunk in await ask(stream=True, stream_options={"include_usage": True})]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello you"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 2


async def test_headers_of_an_answer(client):
    raw = await client.chat.completions.with_raw_response.create(model="assistant", messages=MESSAGES)
    assert raw.headers["x-deltaic-answered-by"] == "edge"


async def test_what_only_we_have_goes_beside_it(ask, node):
    await ask(extra_body={"top_k": 3, "sensitivity": "public"}, extra_headers={"X-Deltaic-Timeout": "5"})
    assert node.requests[0].sampling.top_k == 3
    assert node.requests[0].sensitivity == pb.SENSITIVITY_PUBLIC
    assert node.seconds[0] <= 5


def _talk(url: str) -> list[object]:
    """What a program without asyncio does."""
    with OpenAI(base_url=url, api_key="sk-test", max_retries=0) as client:
        whole = client.chat.completions.create(model="assistant", messages=MESSAGES)
        with client.chat.completions.create(model="assistant", messages=MESSAGES, stream=True) as stream:
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        older = client.completions.create(model="assistant", prompt="Once", max_tokens=3)
        with client.completions.create(model="assistant", prompt="Once", stream=True) as stream:
            older_streamed = "".join(chunk.choices[0].text for chunk in stream)
        vector = client.embeddings.create(model="assistant", input="three").data[0].embedding
        models = [model.id for model in client.models.list()]
        one = client.models.retrieve("assistant@canary").id
    return [whole.choices[0].message.content, streamed, older.choices[0].text, older_streamed, vector, models[:2], one]


async def test_the_synchronous_client_does_all_of_it(face):
    *texts, vector, models, one = await asyncio.to_thread(_talk, face.url)
    assert texts == ["Hello you"] * 4
    assert vector == [5.0, 0.5]
    assert models == ["assistant@canary", "assistant"]
    assert one == "assistant@canary"


async def test_embeddings_and_models(client):
    answer = await client.embeddings.create(model="assistant", input=["one", "three"])
    assert [each.embedding for each in answer.data] == [[3.0, 0.5], [5.0, 0.5]]
    assert [model.id async for model in client.models.list()][1] == "assistant"


async def test_completions(client):
    answer = await client.completions.create(model="assistant", prompt=["a", "b"], logprobs=1)
    assert [choice.text for choice in answer.choices] == ["Hello you", "Hello you"]


async def test_tools(ask, node):
    node.pieces = [
        call("weather", '{"city": "Bern"}', "call_1"),
        end(reason=pb.Completion.FINISH_REASON_TOOL_CALLS),
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    made = (await ask(tools=tools, tool_choice="auto")).choices[0].message
    assert made.tool_calls[0].function.name == "weather"
    answered = [made, {"role": "tool", "tool_call_id": made.tool_calls[0].id, "content": "rain"}]
    await ask(tools=tools, messages=[*MESSAGES, *answered])
    assert node.requests[-1].messages[1].tool_calls[0].arguments == '{"city": "Bern"}'
    chunks = [chunk async for chunk in await ask(tools=tools, stream=True)]
    assert chunks[1].choices[0].delta.tool_calls[0].function.arguments == '{"city": "Bern"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_pydantic_model_as_the_shape_of_an_answer(client, node):
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str

    node.pieces = [text('{"name": '), text('"Eva"}'), end()]
    answer = await client.chat.completions.parse(model="assistant", messages=MESSAGES, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Eva")
    assert '"name"' in node.requests[0].constraint.json_schema


async def test_log_probabilities(ask, node):
    node.pieces = [text("a", logprobs=[token(b"a", -0.5, (b"a", -0.5))]), end()]
    entry = (await ask(logprobs=True, top_logprobs=1)).choices[0].logprobs.content[0]
    assert (entry.token, entry.logprob, entry.top_logprobs[0].token) == ("a", -0.5, "a")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotServed("none"), openai.NotFoundError),
        (QueueFull("full", retry_after_ms="1"), openai.RateLimitError),
        (WorkerDied("died"), openai.InternalServerError),
    ],
)
async def test_errors_are_of_the_kind_that_the_package_has_for_them(ask, node, error, kind):
    node.pieces, node.error = [], error
    with pytest.raises(kind) as caught:
        await ask()
    assert caught.value.code == error.reason.lower()


async def test_a_wrong_parameter_is_a_bad_request(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(temperature=9)
    assert caught.value.param == "temperature"


async def test_the_package_tries_again_when_told_to(face, node):
    node.pieces, node.error = [], QueueFull("full", retry_after_ms="20")

    async def answered_later():
        await node.began.wait()
        node.pieces, node.error = [text("ok"), end()], None

    async with AsyncOpenAI(base_url=face.url, api_key="x", max_retries=1) as client, asyncio.TaskGroup() as group:
        group.create_task(answered_later())
        answer = await client.chat.completions.create(model="assistant", messages=MESSAGES)
    assert answer.choices[0].message.content == "ok"


async def test_an_error_in_mid_stream_is_raised(ask, node):
    node.pieces, node.error = [text("half")], WorkerDied("the worker died while it answered")
    with pytest.raises(openai.APIError, match="worker died"):
        async for _ in await ask(stream=True):
            pass


async def test_a_stream_that_is_closed_ends_the_work(ask, node):
    node.pieces, node.endless = [], "word "
    stream = await ask(stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(20):
        await node.closed.wait()
