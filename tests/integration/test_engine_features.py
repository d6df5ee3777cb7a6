"""What one worker can do beside plain answers: choices, prefixes, priorities, adapters, embeddings, constraints."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from engine_asking import KEY, REVISION, answer, ask, endless
from lora_files import write_lora

from deltaic.engine.host import ModelHost
from deltaic.engine.relay import embed, generate
from deltaic.engine.settings import EngineSettings
from deltaic.errors import DeltaicError
from deltaic.v1 import inference_pb2 as pb

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

SYSTEM = "You answer the customers of a bank in one short sentence. " * 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory, demo_model_path: Path) -> AsyncIterator[ModelHost]:
    settings = EngineSettings(slots=2, context_tokens=1024, queue=16, threads=1, prefix_bytes=64 << 20)
    host = ModelHost(tmp_path_factory.mktemp("run"), settings, "edge@test", "edge")
    await host.serve(KEY, REVISION, demo_model_path)
    yield host
    await host.close()


async def embedding(host: ModelHost, *texts: str) -> pb.EmbedResponse:
    async with host.lease(KEY) as leased:
        return await embed(leased, pb.EmbedRequest(inputs=texts), 60)


async def choices(host: ModelHost, request: pb.GenerateRequest) -> dict[int, str]:
    texts: dict[int, str] = {}
    ends = 0
    async with host.lease(KEY) as leased:
        async for response in generate(leased, request, 60):
            texts[response.choice] = texts.get(response.choice, "") + response.text
            ends += response.WhichOneof("event") == "completion"
    assert ends == max(request.choices, 1)
    return texts


async def test_choices_are_what_their_seeds_give_alone(host: ModelHost) -> None:
    """Three choices on two slots: the prompt is read once, and choice i has seed + i."""
    request = ask("Tell me a story.", temperature=1.0, choices=3)
    request.sampling.seed = 7
    several = await choices(host, request)
    assert len(set(several.values())) == 3
    for choice in range(3):
        request.choices, request.sampling.seed = 1, 7 + choice
        assert (await choices(host, request))[0] == several[choice]


async def test_a_shared_beginning_is_not_read_again_by_the_same_tenant_alone(host: ModelHost) -> None:
    def asked(text: str, tenant: str) -> pb.GenerateRequest:
        request = ask(text, max_tokens=4, tenant=tenant)
        request.messages.insert(0, pb.ChatMessage(role="system", content=SYSTEM))
        return request

    _, first = await answer(host, asked("Hello?", "one"))
    _, again = await answer(host, asked("What do you offer?", "one"))
    _, other = await answer(host, asked("Hello?", "two"))
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens > 300
    assert other.usage.cached_tokens == 0
    # Both slots are taken over by others; the state comes back from the store.
    await asyncio.gather(*(answer(host, ask(f"{n}? " * 60, max_tokens=2, tenant="three")) for n in range(3)))
    text, later = await answer(host, asked("What do you offer?", "one"))
    assert later.usage.cached_tokens > 300
    assert text


async def test_high_priority_does_not_wait_and_the_parked_answer_is_the_same(host: ModelHost) -> None:
    alone, _ = await answer(host, endless(200))
    low = endless(200)
    low.priority = pb.PRIORITY_LOW
    running = [asyncio.create_task(answer(host, low)) for _ in range(2)]
    await asyncio.sleep(1)
    _, high = await answer(host, ask("Hi", max_tokens=3, priority=pb.PRIORITY_HIGH))
    assert not any(task.done() for task in running)
    assert high.timings.queue_ms < 500
    assert [text for text, _ in await asyncio.gather(*running)] == [alone, alone]


async def test_adapters_change_answers_by_name_and_go_again(host: ModelHost, tmp_path: Path) -> None:
    plain, _ = await answer(host, ask("What is a bank?"))
    await host.load_adapter(KEY, "odd", write_lora(tmp_path / "odd.gguf"))
    odd = ask("What is a bank?", adapters=[pb.AdapterUse(name="odd")])
    weak = ask("What is a bank?", adapters=[pb.AdapterUse(name="odd", scale=0.0)])
    (changed, _), (same, _), (without, _) = await asyncio.gather(
        answer(host, odd), answer(host, weak), answer(host, ask("What is a bank?"))
    )
    assert changed != plain
    assert same == without == plain
    assert "odd" in host.serving()[0].adapters
    await host.unload_adapter(KEY, "odd")
    with pytest.raises(DeltaicError, match="no adapter odd") as refused:
        await answer(host, odd)
    assert refused.value.reason == "NO_ADAPTER"


async def test_a_file_that_is_no_adapter_is_refused(host: ModelHost, tmp_path: Path, demo_model_path: Path) -> None:
    narrow = write_lora(tmp_path / "narrow.gguf", width=64)
    for path in (narrow, demo_model_path, tmp_path / "missing.gguf"):
        with pytest.raises(DeltaicError, match=r"cannot use|no file"):
            await host.load_adapter(KEY, "bad", path)
    assert (await answer(host, ask("Say hello.", max_tokens=2)))[0]


async def test_embeddings_are_unit_vectors_that_know_what_is_alike(host: ModelHost) -> None:
    texts = ("The cat sleeps on the sofa.", "A cat is sleeping on the couch.", "Interest rates rose in March.")
    response = await embedding(host, *texts)
    vectors = [np.array(each.values) for each in response.embeddings]
    assert [each.shape for each in vectors] == [(576,)] * 3
    assert [round(float(np.linalg.norm(each)), 4) for each in vectors] == [1.0, 1.0, 1.0]
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert response.usage.prompt_tokens > 15
    assert response.revision == str(REVISION)


async def test_embeddings_do_not_depend_on_company_or_on_chunks(host: ModelHost) -> None:
    long = "A word and another one. " * 100
    alone = np.array((await embedding(host, long)).embeddings[0].values)
    running = asyncio.create_task(answer(host, endless(60)))
    beside = np.array((await embedding(host, "first", long)).embeddings[1].values)
    await running
    assert float(alone @ beside) > 0.999


async def test_an_answer_follows_a_schema(host: ModelHost) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    request = ask("Invent a person.", max_tokens=80, constraint=pb.Constraint(json_schema=json.dumps(schema)))
    text, completion = await answer(host, request)
    assert set(json.loads(text)) == {"name", "age"}
    assert completion.finish_reason == pb.Completion.FINISH_REASON_STOP


async def test_a_required_tool_is_called(host: ModelHost) -> None:
    tool = pb.Tool(
        name="weather",
        parameters='{"type":"object","properties":{"city":{"enum":["Rome","Oslo"]}},"required":["city"]}',
    )
    request = ask("What is the weather in Rome?", max_tokens=60, tools=[tool])
    request.tool_choice.mode, request.tool_choice.name = pb.ToolChoice.MODE_REQUIRED, "weather"
    calls, completion = [], pb.Completion()
    async with host.lease(KEY) as leased:
        async for response in generate(leased, request, 60):
            if response.WhichOneof("event") == "tool_call":
                calls.append(response.tool_call)
            completion = response.completion
    assert [(call.name, json.loads(call.arguments)["city"]) for call in calls[:1]] in (
        [("weather", "Rome")],
        [("weather", "Oslo")],
    )
    assert completion.finish_reason == pb.Completion.FINISH_REASON_TOOL_CALLS


async def test_probabilities_are_reported_with_every_token(host: ModelHost) -> None:
    request = ask("Say hello.", max_tokens=5, top_logprobs=3)
    reported = []
    async with host.lease(KEY) as leased:
        async for response in generate(leased, request, 60):
            reported += response.logprobs
    assert len(reported) == 5
    assert all(each.chosen == each.top[0] and len(each.top) == 3 for each in reported)
    assert all(each.top[0].logprob >= each.top[1].logprob >= each.top[2].logprob for each in reported)


async def test_what_cannot_be_followed_is_refused_and_others_go_on(host: ModelHost) -> None:
    running = asyncio.create_task(answer(host, endless(60)))
    for constraint in (pb.Constraint(grammar="root ::= ("), pb.Constraint(json_schema='{"type": "nonsense"}')):
        with pytest.raises(DeltaicError, match=r"cannot be followed|is not GBNF"):
            await answer(host, ask("x", constraint=constraint))
    with pytest.raises(DeltaicError, match="no adapter"):
        await answer(host, ask("x", adapters=[pb.AdapterUse(name="unknown")]))
    assert (await running)[1].usage.completion_tokens == 60
