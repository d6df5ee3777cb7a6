"""Escalated answers over a real connection: any published revision, loaded on demand, within a budget."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from center_node import CenterNode, refusal, running_center

from deltaic.errors import Code
from deltaic.v1 import inference_pb2

T = 90.0
SMALL = {"slots": 2, "threads": 1, "context_tokens": 512}
PUBLIC = inference_pb2.SENSITIVITY_PUBLIC


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[CenterNode]:
    async with running_center(tmp_path / "center") as running:
        yield running


def ask(model: str, sensitivity: int = PUBLIC, max_tokens: int = 8) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(
        model=model,
        messages=[inference_pb2.ChatMessage(role="user", content="Say hello.")],
        sampling=inference_pb2.Sampling(temperature=0),
        max_tokens=max_tokens,
        sensitivity=sensitivity,
    )


async def answer(node: CenterNode, request: inference_pb2.GenerateRequest) -> tuple[str, inference_pb2.Completion]:
    text, completion = "", None
    async for response in node.inference.Generate(request, timeout=T):
        if response.HasField("completion"):
            completion = response.completion
        else:
            text += response.text
    assert completion is not None
    return text, completion


@pytest.mark.parametrize("sensitivity", [inference_pb2.SENSITIVITY_SENSITIVE, 77])
async def test_a_sensitive_prompt_is_refused_before_anything_else(node: CenterNode, sensitivity: int) -> None:
    call = node.inference.Generate(ask("ghost", sensitivity), timeout=T)
    refused = await refusal(call.read())
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("ghost", Code.NOT_FOUND),
        ("models/m/channels/canary", Code.NOT_FOUND),
        (f"models/m/revisions/sha256:{'0' * 64}", Code.NOT_FOUND),
        ("No Such Name", Code.INVALID_ARGUMENT),
        ("", Code.INVALID_ARGUMENT),
    ],
)
async def test_a_model_that_is_none_is_refused(
    node: CenterNode, tiny_gguf: Callable[..., Path], model: str, code: Code
) -> None:
    await node.publish_file(tiny_gguf())
    assert (await refusal(node.inference.Generate(ask(model), timeout=T).read())).code is code
    count = inference_pb2.CountTokensRequest(model=model, prompt="x")
    assert (await refusal(node.inference.CountTokens(count, timeout=T))).code is code


async def test_a_model_larger_than_the_budget_is_refused(tmp_path: Path, tiny_gguf: Callable[..., Path]) -> None:
    async with running_center(tmp_path, hot_bytes=1_000) as node:
        revision = await node.publish_file(tiny_gguf())
        refused = await refusal(node.inference.Generate(ask(revision.name), timeout=T).read())
        assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "HOT_SET_FULL")


@pytest.mark.model
async def test_a_real_model_is_published_tried_and_answers_a_stampede(tmp_path: Path, demo_model_path: Path) -> None:
    async with running_center(tmp_path / "center", trial_load=None, name="hq", engine=SMALL) as node:
        revision = await node.publish_file(demo_model_path, "smol")
        await node.move(revision.name)
        assert not (await node.inference.ListModels(inference_pb2.ListModelsRequest(), timeout=T)).models
        names = ("smol", "models/smol/channels/stable", revision.name)
        answers = await asyncio.gather(*(answer(node, ask(name)) for name in names))
        assert all("Hello" in text for text, _ in answers)
        for _, completion in answers:
            assert completion.revision == revision.name
            assert completion.answered_by == inference_pb2.NODE_ROLE_CENTER
            assert completion.node == "hq"
            assert completion.usage.completion_tokens > 0
        [served] = (await node.inference.ListModels(inference_pb2.ListModelsRequest(), timeout=T)).models
        assert (served.model, served.revision) == ("models/smol", revision.name)
        count = inference_pb2.CountTokensRequest(model="smol", prompt="Say hello.")
        assert (await node.inference.CountTokens(count, timeout=T)).tokens >= 3
        again = await node.publish_file(demo_model_path, "smol")
        assert again == revision


@pytest.mark.model
async def test_a_client_that_leaves_while_a_model_loads_harms_nobody(tmp_path: Path, demo_model_path: Path) -> None:
    async with running_center(tmp_path / "center", engine=SMALL) as node:
        revision = await node.publish_file(demo_model_path, "smol")
        impatient = node.inference.Generate(ask(revision.name), timeout=0.2)
        patient = asyncio.ensure_future(answer(node, ask(revision.name)))
        assert (await refusal(impatient.read())).code is Code.DEADLINE_EXCEEDED
        text, _ = await patient
        assert "Hello" in text


async def test_a_center_process_says_that_it_is_ready_and_leaves_on_sigterm(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "center", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "center")),
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b'"center.ready"' not in (line := await process.stderr.readline()):
                assert line, "the process ended before it was ready"
            process.terminate()
            rest = await process.stderr.read()
            assert await process.wait() == 0
        assert b"node.stopped" in rest
        assert b"Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
