"""Plain curl."""

import asyncio
import json
import shutil

import pytest
from played_node import text

from deltaic.engine.errors import WorkerDied

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

BODY = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}


async def curl(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--show-error", "--no-buffer", "--max-time", "20", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def post(url: str, body: object, path: str = "/chat/completions") -> tuple[str, ...]:
    return (url + path, "--header", "content-type: application/json", "--data", json.dumps(body))


async def test_curl_gets_an_answer(face):
    status, out = await curl(*post(face.url, BODY))
    assert (status, json.loads(out)["choices"][0]["message"]["content"]) == (0, "Hello you")


async def test_curl_gets_a_stream(face):
    status, out = await curl(*post(face.url, BODY | {"stream": True}))
    assert status == 0
    assert out.endswith("data: [DONE]\n\n")
    pieces = [json.loads(line[6:]) for line in out.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == "Hello you"


async def test_curl_sees_an_error_as_json_and_as_a_status(face):
    status, out = await curl("--write-out", "\n%{http_code}", *post(face.url, {"model": "assistant"}))
    body, code = out.rsplit("\n", 1)
    assert (status, code, json.loads(body)["error"]["param"]) == (0, "400", "messages")
    status, _ = await curl("--fail", *post(face.url, BODY | {"model": "No!"}))
    assert status == 22


async def test_curl_sees_an_error_in_the_middle_of_a_stream(face, node):
    node.pieces, node.error = [text("half")], WorkerDied("died")
    status, out = await curl(*post(face.url, BODY | {"stream": True}))
    assert status == 0
    event, data = out.strip().splitlines()[-2:]
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "worker_died"


async def test_curl_that_is_stopped_ends_the_work(face, node):
    node.pieces, node.endless = [], "word "
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--no-buffer", *post(face.url, BODY | {"stream": True})), stdout=asyncio.subprocess.PIPE
    )
    await process.stdout.readuntil(b"word ")
    process.kill()
    async with asyncio.timeout(20):
        await node.closed.wait()
    process.stdout._transport.close()
    await process.wait()


async def test_curl_with_the_default_content_type_is_told_what_to_send(face):
    _, out = await curl(face.url + "/chat/completions", "--data", json.dumps(BODY))
    assert "content-type: application/json" in json.loads(out)["error"]["message"]
