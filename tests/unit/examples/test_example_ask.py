"""examples/ask.py, run as a person runs it, against a server that answers."""

import asyncio
import sys
from pathlib import Path

import pytest

from deltaic.errors import NotFound
from deltaic.rpc.server import Server
from deltaic.v1 import inference_pb2, inference_pb2_grpc

ASK = Path(__file__).resolve().parents[3] / "examples" / "ask.py"


class Echo(inference_pb2_grpc.InferenceServiceServicer):
    """Answers with the question, word by word, and knows one model."""

    def __init__(self):
        self.requests = []

    async def Generate(self, request, context):
        self.requests.append(request)
        if request.model != "assistant":
            raise NotFound(f"no model {request.model} here")
        words = request.messages[0].content.split()
        for word in words:
            yield inference_pb2.GenerateResponse(text=f"{word} ")
        usage = inference_pb2.Usage(completion_tokens=len(words))
        yield inference_pb2.GenerateResponse(
            completion=inference_pb2.Completion(usage=usage, node="edge@test", revision="models/assistant/revisions/x")
        )


async def _ask(server, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        ASK,
        f"127.0.0.1:{server.port}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def servicer():
    return Echo()


@pytest.fixture
async def server(servicer):
    listening = Server("127.0.0.1:0")
    listening.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, "deltaic.v1.InferenceService")
    async with listening.running(grace=0):
        yield listening


async def test_it_prints_the_answer_and_who_gave_it(server):
    status, out, err = await _ask(server, "assistant", "who are you")
    assert (status, err) == (0, "")
    assert out == "who are you \n[3 tokens by edge@test, models/assistant/revisions/x]\n"


async def test_it_says_that_the_question_is_public(server, servicer):
    await _ask(server, "assistant", "who")
    assert servicer.requests[0].sensitivity == inference_pb2.SENSITIVITY_PUBLIC


async def test_a_model_that_is_not_there_is_one_line(server):
    status, out, err = await _ask(server, "other", "who")
    assert (status, out) == (1, "")
    assert err == f"127.0.0.1:{server.port}: no model other here\n"


def test_it_is_short_enough_to_read_at_once():
    assert len(ASK.read_text().splitlines()) <= 40
