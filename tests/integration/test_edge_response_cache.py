"""Two edges of a branch that answer repetitions from what either of them has said before."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from center_node import CenterNode, running_center
from edge_node import ENGINE, EdgeNode, question, running_edge, until
from index_servers import Server, server

from deltaic.v1 import inference_pb2

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
shared = partial(pytest_asyncio.fixture, scope="module", loop_scope="module")
SETTINGS = {"response_cache": "on", "index_secret": "only the edges know it"}


@shared
async def center(tmp_path_factory: pytest.TempPathFactory, demo_model_path: Path) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path_factory.mktemp("center"), engine=ENGINE) as node:
        revision = await node.publish_file(demo_model_path, "assistant")
        await node.move(revision.name)
        yield node


@shared
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    with server(tmp_path_factory.mktemp("valkey")) as started:
        yield started


@shared
async def edges(
    center: CenterNode, valkey: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[EdgeNode, EdgeNode]]:
    folder, address = tmp_path_factory.mktemp("edges"), center.center.address
    settings = SETTINGS | {"index_url": valkey.url}
    async with (
        running_edge(folder / "one", address, "assistant/stable", name="one", http="127.0.0.1:0", **settings) as one,
        running_edge(folder / "two", address, "assistant/stable", name="two", **settings) as two,
    ):
        await until(one.serving)
        await until(two.serving)
        yield one, two


async def test_a_repetition_is_answered_without_a_worker_and_says_so(edges: tuple[EdgeNode, EdgeNode]) -> None:
    one, _ = edges
    text, made = await one.ask("assistant")
    again, repeated = await one.ask("assistant")
    assert (made.from_cache, repeated.from_cache) == (False, True)
    assert again == text
    assert (repeated.revision, repeated.node, repeated.finish_reason) == (made.revision, "one", made.finish_reason)
    assert repeated.usage.completion_tokens == made.usage.completion_tokens


async def test_pieces_and_log_probabilities_are_those_of_the_first_time(edges: tuple[EdgeNode, EdgeNode]) -> None:
    one, _ = edges
    asked = question("assistant", top_logprobs=2, choices=2, sampling=inference_pb2.Sampling(seed=5))
    first = [piece async for piece in one.inference.Generate(asked, timeout=60)]
    second = [piece async for piece in one.inference.Generate(asked, timeout=60)]
    assert [piece.completion.from_cache for piece in second if piece.HasField("completion")] == [True, True]
    plain = [[piece for piece in pieces if not piece.HasField("completion")] for pieces in (first, second)]
    assert plain[0] == plain[1]
    assert any(piece.logprobs for piece in plain[0])


async def test_what_one_edge_has_said_another_repeats(edges: tuple[EdgeNode, EdgeNode]) -> None:
    one, two = edges
    asked = {"messages": [inference_pb2.ChatMessage(role="user", content="Name a colour.")]}
    text, _ = await one.ask("assistant", **asked)

    async def repeated_by_two() -> bool:
        # Each try that finds nothing makes two keep its own; another tenant is another question.
        again, done = await two.ask("assistant", **asked)
        return bool(done.from_cache and done.node == "two" and again == text)

    await until(repeated_by_two)
    _, other = await two.ask("assistant", tenant="another", **asked)
    assert not other.from_cache


async def test_a_random_answer_is_made_each_time(edges: tuple[EdgeNode, EdgeNode]) -> None:
    one, _ = edges
    for _ in range(2):
        _, done = await one.ask("assistant", sampling=inference_pb2.Sampling(temperature=1))
        assert not done.from_cache


async def test_http_clients_see_the_mark(edges: tuple[EdgeNode, EdgeNode]) -> None:
    one, _ = edges
    body = {
        "model": "assistant",
        "messages": [{"role": "user", "content": "Say hello over HTTP."}],
        "temperature": 0,
        "max_tokens": 8,
    }
    address = f"http://127.0.0.1:{one.edge.http_port}/v1/chat/completions"
    first, _ = await asyncio.to_thread(_post, address, body)
    second, headers = await asyncio.to_thread(_post, address, body)
    assert "from_cache" not in first["deltaic"]
    assert second["deltaic"]["from_cache"] is True
    assert headers["x-deltaic-from-cache"] == "true"
    assert first["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]


def _post(address: str, body: dict[str, Any]) -> tuple[dict[str, Any], Message]:
    asked = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read()), answer.headers


async def test_the_index_shows_loads_shares_and_beginnings_but_no_prompt(
    edges: tuple[EdgeNode, EdgeNode], valkey: Server
) -> None:
    one, _ = edges
    words = "A most peculiar question about umbrellas. " * 12
    await one.ask("assistant", messages=[inference_pb2.ChatMessage(role="user", content=words)], tenant="geriatrics")

    async def shown() -> bool:
        return b'"prefixes":["' in (valkey.do("GET", "deltaic:{branch}:node:one:of:assistant") or b"")

    await until(shown)
    keys = valkey.do("KEYS", "*")
    assert any(b":served:one:" in key for key in keys)
    assert not [key for key in keys if b"geriatrics" in key]
    values = [valkey.do("DUMP", key) for key in keys]
    assert not [value for value in values if b"umbrellas" in value or b"geriatrics" in value]
