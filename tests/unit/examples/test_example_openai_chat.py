"""examples/openai_chat.py, run as a person runs it, against a gateway."""

import asyncio
import sys
from pathlib import Path

import pytest
from played_node import REVISION, PlayedNode, serving

from deltaic.engine.errors import NotServed
from deltaic.v1 import inference_pb2

CHAT = Path(__file__).resolve().parents[3] / "examples" / "openai_chat.py"


async def _chat(face, *arguments):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, CHAT, face.url, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def node():
    return PlayedNode()


async def test_it_prints_the_answer_and_who_gave_it(node):
    async with serving(node) as face:
        status, out, err = await _chat(face, "assistant", "who are you")
    assert (status, err) == (0, "")
    assert out == f"Hello you\n[by edge@test, {REVISION}]\n"
    assert node.requests[0].sensitivity == inference_pb2.SENSITIVITY_PUBLIC
    assert node.requests[0].messages[0].content == "who are you"


async def test_a_model_that_is_not_there_is_one_line(node):
    node.pieces, node.error = [], NotServed("no model other here")
    async with serving(node) as face:
        status, out, err = await _chat(face, "other", "who")
    assert (status, out) == (1, "")
    assert "no model other here" in err
    assert len(err.splitlines()) == 1


def test_it_is_short_enough_to_read_at_once():
    assert len(CHAT.read_text().splitlines()) <= 40
