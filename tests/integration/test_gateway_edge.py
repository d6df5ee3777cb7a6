"""A real edge with a real model, called over HTTP, by the edge's own face and by a gateway of its own process."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from center_node import CenterNode, running_center
from edge_node import ENGINE, EdgeNode, running_edge, until
from openai import AsyncOpenAI, NotFoundError, PermissionDeniedError

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
PUBLIC = {"X-Deltaic-Sensitivity": "public"}
MESSAGES = [{"role": "user", "content": "Say hello."}]


@shared
async def center(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        yield node


@shared
async def revision(center: CenterNode, demo_model_path: Path) -> str:
    published = await center.publish_file(demo_model_path, "assistant")
    await center.move(published.name)
    return published.name


@shared
async def edge(center: CenterNode, revision: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EdgeNode]:
    folder = tmp_path_factory.mktemp("edge")
    async with running_edge(folder, center.center.address, "assistant/stable", http="127.0.0.1:0") as node:
        await until(node.serving)
        yield node


def client_of(port: int) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-test", max_retries=0, timeout=60)


async def test_a_chat_is_answered_and_streamed_alike(edge: EdgeNode, revision: str) -> None:
    async with client_of(edge.edge.http_port) as client:
        ask = partial(
            client.chat.completions.create, model="assistant", messages=MESSAGES, temperature=0, max_tokens=12
        )
        whole = await ask()
        chunks = [chunk async for chunk in await ask(stream=True, stream_options={"include_usage": True})]
    text = whole.choices[0].message.content
    assert text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens > 0
    made = whole.model_extra["deltaic"]
    assert (made["revision"], made["node"], made["answered_by"]) == (revision, "edge@test", "edge")
    assert (await edge.ask("assistant", max_tokens=12))[0] == text


async def test_raw_text_goes_on(edge: EdgeNode) -> None:
    async with client_of(edge.edge.http_port) as client:
        answer = await client.completions.create(
            model="assistant", prompt="1, 2, 3, 4, 5,", max_tokens=6, temperature=0
        )
    assert "6" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"


async def test_the_models_that_are_served_are_listed(edge: EdgeNode, revision: str) -> None:
    async with client_of(edge.edge.http_port) as client:
        models = [model async for model in client.models.list()]
    assert [(model.id, model.model_extra["deltaic"]["revision"]) for model in models] == [("assistant", revision)]


async def test_a_sensitive_request_is_forbidden_here_and_an_unknown_model_is_not_found(edge: EdgeNode) -> None:
    async with client_of(edge.edge.http_port) as client:
        ask = partial(client.chat.completions.create, messages=MESSAGES, max_tokens=2)
        with pytest.raises(PermissionDeniedError):
            await ask(model="assistant", extra_headers={"X-Deltaic-Sensitivity": "sensitive"})
        with pytest.raises(NotFoundError):
            await ask(model="nowhere", extra_headers=PUBLIC)


async def test_a_client_that_leaves_frees_its_place(edge: EdgeNode) -> None:
    async with client_of(edge.edge.http_port) as client:
        ask = partial(client.completions.create, model="assistant", prompt="1 2 3 4 5 6 7 8", temperature=0)
        for _ in range(2 * ENGINE.slots):
            stream = await ask(max_tokens=400, stream=True)
            await anext(aiter(stream))
            await stream.close()
        async with asyncio.timeout(30):
            assert (await ask(max_tokens=4)).choices[0].text


async def test_the_command_puts_a_gateway_before_a_node(edge: EdgeNode, revision: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "gateway", "--http", "127.0.0.1:0", "--node", f"127.0.0.1:{edge.edge.port}"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = await process.stderr.readuntil(b"http.listening")
            line += await process.stderr.readline()
            port = int(re.search(rb'port"?[=:] ?(\d+)', line)[1])
            async with client_of(port) as client:
                answer = await client.chat.completions.create(model="assistant", messages=MESSAGES, max_tokens=4)
                assert answer.model_extra["deltaic"]["revision"] == revision
                process.terminate()
            await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
