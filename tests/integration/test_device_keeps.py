"""A real device with a real model below a real line that listens: what must stay stays, and the line may be cut."""

import asyncio
import os
import secrets
import signal
import socket
import string
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from line import Line
from transfer_nodes import Registry, stored

from deltaic.engine.settings import EngineSettings
from deltaic.errors import Code, DeltaicError
from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import PortInUse, Server
from deltaic.rpc.status import from_rpc_error
from deltaic.runtime.data_folder import DataFolderUnusable
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.trust.audit import verify
from deltaic.v1 import (
    content_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    registry_pb2_grpc,
)
from device.__main__ import main
from device.app import Device
from device.config import DeviceSettings
from device.decision_log import read_decisions

pytestmark = pytest.mark.model

CHANNEL = "models/m/channels/stable"
PUBLIC, SENSITIVE = inference_pb2.SENSITIVITY_PUBLIC, inference_pb2.SENSITIVITY_SENSITIVE
UNLABELLED = inference_pb2.SENSITIVITY_UNSPECIFIED
ENGINE = EngineSettings(slots=2, context_tokens=512, threads=1)


@dataclass
class Upstream(inference_pb2_grpc.InferenceServiceServicer, fleet_pb2_grpc.FleetServiceServicer):
    """Writes down everything that devices send and answers every prompt with "edge"."""

    prompts: list[inference_pb2.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    reports: list[fleet_pb2.NodeReport] = field(default_factory=list)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.prompts.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        yield inference_pb2.GenerateResponse(text="edge")
        yield inference_pb2.GenerateResponse(
            completion=inference_pb2.Completion(node="edge@test", answered_by=inference_pb2.NODE_ROLE_EDGE)
        )

    async def Report(self, request: Any, context: Any) -> fleet_pb2.ReportResponse:
        self.reports.extend(request.reports)
        return fleet_pb2.ReportResponse()


@dataclass
class Branch:
    upstream: Upstream
    line: Line
    registry: Registry


@dataclass
class Answer:
    text: str = ""
    completion: inference_pb2.Completion | None = None


class Application:
    """What a program on the endpoint does: calls the device by its contract."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel = open_channel(f"127.0.0.1:{port}", node="application")
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)

    async def ask(self, text: str, *, label: int, model: str = "models/m", **fields: Any) -> Answer:
        asked = inference_pb2.GenerateRequest(
            model=model,
            messages=[inference_pb2.ChatMessage(role="user", content=text)],
            sensitivity=label,  # type: ignore[arg-type]
            max_tokens=4,
            **fields,
        )
        answer = Answer()
        try:
            async for response in self.stub.Generate(asked, timeout=30):
                answer.text += response.text
                if response.HasField("completion"):
                    answer.completion = response.completion
        except grpc.RpcError as error:
            raise from_rpc_error(error, "device") from None
        return answer


@asynccontextmanager
async def branch(store: Any) -> AsyncIterator[Branch]:
    upstream, registry = Upstream(), Registry()
    server = Server("127.0.0.1:0")
    for register, servicer, name in (
        (content_pb2_grpc.add_ContentServiceServicer_to_server, ContentServicer(store, None), "ContentService"),
        (registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry, "RegistryService"),
        (inference_pb2_grpc.add_InferenceServiceServicer_to_server, upstream, "InferenceService"),
        (fleet_pb2_grpc.add_FleetServiceServicer_to_server, upstream, "FleetService"),
    ):
        server.add(register, servicer, f"deltaic.v1.{name}")
    async with server.running(grace=0.1), Line(server.port, listen=True) as line:
        yield Branch(upstream, line, registry)


def settings(folder: Path, upstream_port: int, **changes: Any) -> DeviceSettings:
    chosen = {
        "name": "device@test",
        "listen": "127.0.0.1:0",
        "data_dir": folder,
        "upstream": f"127.0.0.1:{upstream_port}",
        "channels": [CHANNEL],
        "engine": ENGINE,
        "report_seconds": 0.2,
        "drain_seconds": 5,
    }
    return DeviceSettings(**(chosen | changes))


@asynccontextmanager
async def running(folder: Path, upstream_port: int, **changes: Any) -> AsyncIterator[Application]:
    async with Device(settings(folder, upstream_port, **changes)).running() as device:
        application = Application(device.port)
        try:
            yield application
        finally:
            await application.channel.close()


async def until(holds: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def served(application: Application) -> list[str]:
    answer = await application.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5)
    return [model.channel for model in answer.models]


def canary() -> str:
    """A word that is nowhere else, of letters only: digits might look like somebody's number."""
    return "canary" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(20))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, demo_model_path: Path) -> Any:
    """The chunks of the demo model and its manifest, made once."""
    return asyncio.run(stored(tmp_path_factory.mktemp("library"), demo_model_path))


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory, library: Any) -> Path:
    """The data folder of a device that has fetched its model and stopped."""
    folder = tmp_path_factory.mktemp("provisioned")
    store, [manifest] = library

    async def provision() -> None:
        async with branch(store) as above, running(folder, above.line.port) as application:
            assert await served(application) == []
            await above.registry.move(ChannelName.parse(CHANNEL), manifest)
            async with asyncio.timeout(60):
                while await served(application) != [CHANNEL]:
                    await asyncio.sleep(0.05)
            answer = await application.ask("Say hello.", label=SENSITIVE)
            assert answer.completion is not None
            assert answer.completion.answered_by == inference_pb2.NODE_ROLE_DEVICE
            await until(
                lambda: any(
                    state.phase == fleet_pb2.ModelState.PHASE_READY
                    for report in above.upstream.reports
                    for state in report.models
                )
            )

    asyncio.run(provision())
    return folder


@pytest.fixture
def folder(tmp_path: Path, provisioned: Path) -> Path:
    """A copy of the provisioned folder; the model's file is linked."""
    for source in provisioned.rglob("*"):
        target = tmp_path / "device" / source.relative_to(provisioned)
        if source.is_file() and source.suffix in (".gguf", ".manifest", ".json"):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    return tmp_path / "device"


async def test_a_device_that_has_nothing_yet_fetches_its_model_and_answers(provisioned: Path) -> None:
    entries = list(read_decisions(provisioned / "egress.jsonl"))
    assert verify(entries) == 1
    assert entries[0].action == "EGRESS_KEPT"


async def test_no_word_of_what_must_stay_is_ever_on_the_line(folder: Path, library: Any) -> None:
    sensitive, unlabelled, detected, leaving = canary(), canary(), canary(), canary()
    async with branch(library[0]) as above, running(folder, above.line.port, prefer="edge") as application:
        for word, label, text in (
            (sensitive, SENSITIVE, "My diagnosis is {}"),
            (unlabelled, UNLABELLED, "What does {} mean?"),
            (detected, PUBLIC, "{} and my card is 4111 1111 1111 1111"),
        ):
            answer = await application.ask(text.format(word), label=label, stop=[word])
            assert answer.completion is not None
            assert answer.completion.answered_by == inference_pb2.NODE_ROLE_DEVICE
            assert answer.completion.node == "device@test"
        answer = await application.ask(f"Explain {leaving}", label=PUBLIC)
        assert answer.text == "edge"
        expected = fleet_pb2.RequestCounts(answered=3, forwarded=1, kept_local=3)
        await until(lambda: above.upstream.reports[-1].requests == expected)
        assert above.line.seen(leaving.encode()), "the line hears what is said"
        assert [word for word in (sensitive, unlabelled, detected) if above.line.seen(word.encode())] == []
        assert len(above.upstream.prompts) == 1
    log = (folder / "egress.jsonl").read_text()
    assert verify(read_decisions(folder / "egress.jsonl")) == 4
    assert [word for word in (sensitive, unlabelled, detected, leaving) if word in log] == []


async def test_refusals_of_what_must_stay_are_not_on_the_line_either(folder: Path, library: Any) -> None:
    sensitive, unlabelled, detected = canary(), canary(), canary()
    async with branch(library[0]) as above, running(folder, above.line.port) as application:
        for text, label in (
            (sensitive, SENSITIVE),
            (unlabelled, UNLABELLED),
            (f"{detected} +44 20 7946 0958", PUBLIC),
        ):
            with pytest.raises(DeltaicError) as caught:
                await application.ask(text, label=label, model="models/other")
            assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "SENSITIVE_NEEDS_LOCAL_MODEL")
            assert CHANNEL in caught.value.hint
        answer = await application.ask("What is new?", label=PUBLIC, model="models/other")
        assert answer.text == "edge"
        assert above.line.seen(b"What is new?")
        assert not any(above.line.seen(word.encode()) for word in (sensitive, unlabelled, detected))


async def test_counting_the_tokens_of_a_prompt_stays_here(folder: Path, library: Any) -> None:
    word = canary()
    async with branch(library[0]) as above, running(folder, above.line.port, prefer="edge") as application:
        counted = await application.stub.CountTokens(
            inference_pb2.CountTokensRequest(model="models/m", prompt=word), timeout=10
        )
        assert counted.tokens > 1
        with pytest.raises(grpc.RpcError):
            await application.stub.CountTokens(
                inference_pb2.CountTokensRequest(model="models/other", prompt=word), timeout=10
            )
        assert not above.line.seen(word.encode())


async def test_words_in_the_metadata_of_a_call_do_not_leave(folder: Path, library: Any) -> None:
    async with branch(library[0]) as above, running(folder, above.line.port, prefer="edge") as application:
        # A bare channel: ours would put its own request id in the place of this one.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as bare:
            asked = inference_pb2.GenerateRequest(model="models/m", prompt="hello", sensitivity=PUBLIC)
            metadata = (("x-request-id", "patient-li-wei"), ("x-node", "li-wei"), ("x-note", "li-wei"))
            stub = inference_pb2_grpc.InferenceServiceStub(bare)
            first = await anext(aiter(stub.Generate(asked, timeout=20, metadata=metadata)))
            assert first.text == "edge"
        (seen,) = above.upstream.metadata
        assert "li-wei" not in repr(seen)
        assert seen["x-node"] == "device@test"
        assert len(seen["x-request-id"]) == 32


async def test_a_cut_line_stops_no_answer_and_a_line_that_is_back_is_used(folder: Path, library: Any) -> None:
    async with branch(library[0]) as above, running(folder, above.line.port, prefer="edge") as application:
        assert (await application.ask("hi", label=PUBLIC)).text == "edge"
        above.line.take_down()
        for label in (PUBLIC, SENSITIVE):
            answer = await application.ask("hi", label=label)
            assert answer.completion is not None
            assert answer.completion.answered_by == inference_pb2.NODE_ROLE_DEVICE
        with pytest.raises(DeltaicError) as caught:
            await application.ask("hi", label=PUBLIC, model="models/other")
        assert caught.value.code is Code.UNAVAILABLE
        above.line.bring_back()
        async with asyncio.timeout(20):
            while (await application.ask("hi", label=PUBLIC)).text != "edge":
                await asyncio.sleep(0.1)


async def test_a_device_that_starts_without_its_upstream_answers_from_what_it_holds(folder: Path) -> None:
    async with running(folder, 9) as application:
        health = health_pb2_grpc.HealthStub(application.channel)
        state = await health.Check(health_pb2.HealthCheckRequest(service="deltaic.v1.InferenceService"), timeout=5)
        assert state.status == health_pb2.HealthCheckResponse.SERVING
        assert await served(application) == [CHANNEL]
        answer = await application.ask("hi", label=SENSITIVE)
        assert answer.completion is not None
        assert answer.completion.answered_by == inference_pb2.NODE_ROLE_DEVICE


async def test_garbage_at_the_door_neither_stops_the_device_nor_leaves_it(folder: Path, library: Any) -> None:
    async with branch(library[0]) as above, running(folder, above.line.port) as application:
        for noise in (
            b"GET / HTTP/1.1\r\n\r\n",
            secrets.token_bytes(4096),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", application.port)
            writer.write(noise)
            await writer.drain()
            writer.close()
        generate = application.channel.unary_stream("/deltaic.v1.InferenceService/Generate")
        for nonsense in (b"\xff" * 50, b"\x12\xff\xff\xff\xff\x0f", secrets.token_bytes(200)):
            with pytest.raises(grpc.RpcError):
                async for _ in generate(nonsense, timeout=5):
                    pass
        answer = await application.ask("hi", label=SENSITIVE)
        assert answer.completion is not None
        assert above.upstream.prompts == []


async def test_a_folder_and_a_port_belong_to_one_device(tmp_path: Path) -> None:
    async with running(tmp_path / "one", 9, channels=[]) as application:
        with pytest.raises(DataFolderUnusable):
            async with running(tmp_path / "one", 9, channels=[]):
                pytest.fail("two devices work in one folder")
        with pytest.raises(PortInUse):
            async with running(tmp_path / "two", 9, channels=[], listen=f"127.0.0.1:{application.port}"):
                pytest.fail("two devices listen on one port")


@pytest.mark.parametrize("listen", ["0.0.0.0:7420", "[::]:7420", "192.0.2.7:7420", "example.org:7420", ":7420"])
def test_a_device_refuses_to_listen_to_the_network(
    listen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--listen", listen, "--data-dir", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert "--allow-remote" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_process_that_is_told_to_stop_finishes_its_answer_first(folder: Path, library: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"listen": f"127.0.0.1:{port}", "data-dir": str(folder), "upstream": "127.0.0.1:9", "channels": "m/stable"}
    command = [sys.executable, "-m", "device", *(part for key, value in flags.items() for part in (f"--{key}", value))]
    with subprocess.Popen([*command, "--engine.threads", "1"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "device.ready" in line:
                    break
            answer = asyncio.run(ask_and_stop(port, process))
            assert answer.completion is not None
            assert answer.completion.usage.completion_tokens > 20
            rest = process.stderr.read()
            assert process.wait(20) == 0
            assert "Traceback" not in "".join(lines) + rest
        finally:
            process.kill()


async def ask_and_stop(port: int, process: "subprocess.Popen[str]") -> Answer:
    """Send SIGTERM when the first word is here, then take the rest."""
    application = Application(port)
    asked = inference_pb2.GenerateRequest(
        model="models/m",
        messages=[inference_pb2.ChatMessage(role="user", content="Tell me a long story about a river.")],
        sensitivity=SENSITIVE,
        max_tokens=64,
    )
    answer = Answer()
    async for response in application.stub.Generate(asked, timeout=30):
        if not answer.text:
            process.send_signal(signal.SIGTERM)
        answer.text += response.text
        if response.HasField("completion"):
            answer.completion = response.completion
    await application.channel.close()
    return answer
