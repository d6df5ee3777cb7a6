"""Whether a worker lives: silence, and the heartbeats that end it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from deltaic.engine.errors import BadAdapter, NoAdapter, NoAdaptersHere
from deltaic.engine.pulse import Pulse, Silence
from deltaic.engine.worker.vitals import Load, Vitals
from deltaic.engine.worker.worker_servicer import WithoutAdapters, WorkerServicer
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.rpc.status import RemoteError, from_rpc_error
from deltaic.v1 import worker_pb2, worker_pb2_grpc


def test_silence_grows_until_a_heartbeat_comes() -> None:
    silence = Silence(0.5, now=10.0)
    assert silence.tick(10.5, heard=0) == 0.5
    assert silence.tick(11.0, heard=0) == 1.0
    assert silence.tick(11.5, heard=1) == 0.0
    assert silence.tick(12.0, heard=1) == 0.5


def test_time_in_which_the_node_itself_stood_still_is_not_the_workers() -> None:
    silence = Silence(0.5, now=10.0)
    assert silence.tick(9_999.0, heard=0) == 1.0


class Adapters:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {}

    async def load(self, name: str, path: Path) -> None:
        self.loaded[name] = path

    async def unload(self, name: str) -> None:
        if name not in self.loaded:
            raise NoAdapter(f"no adapter {name} is loaded")
        del self.loaded[name]


class Served:
    """A worker's service on a socket."""

    def __init__(self) -> None:
        self.vitals, self.adapters = Vitals(), Adapters()
        self.stub: worker_pb2_grpc.WorkerServiceAsyncStub

    async def refused(self, call: "asyncio.Future[object]") -> RemoteError:
        with pytest.raises(grpc.RpcError) as caught:
            await call
        error = from_rpc_error(caught.value, "the worker")
        assert isinstance(error, RemoteError)
        return error


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served()
    server = Server(f"unix:{tmp_path}/w")
    servicer = WorkerServicer(served.vitals, served.adapters)
    server.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, servicer, "deltaic.v1.WorkerService")
    async with server.running(grace=0.1), open_channel(f"unix:{tmp_path}/w", node="test") as channel:
        served.stub = worker_pb2_grpc.WorkerServiceStub(channel)
        yield served


async def test_a_heartbeat_comes_at_once_and_then_only_after_a_beat(served: Served) -> None:
    call = served.stub.Heartbeat(worker_pb2.HeartbeatRequest(interval_ms=20), timeout=30)
    beats = call.__aiter__()
    assert (await anext(beats)).running == 0
    following = asyncio.ensure_future(anext(beats))
    await asyncio.wait({following}, timeout=0.3)
    assert not following.done()
    served.vitals.beat(1.0, Load(running=2))
    assert (await following).running == 2
    call.cancel()


async def test_a_thread_that_does_not_beat_is_silent_although_its_process_answers(served: Served) -> None:
    pulse = Pulse()
    async with asyncio.timeout(20):
        await pulse.until_silent(served.stub, 0.6)
    assert pulse.last is not None


async def test_a_thread_that_beats_is_never_silent(served: Served) -> None:
    beats: list[int] = []
    pulse = Pulse(on_beat=lambda: beats.append(1))
    listening = asyncio.create_task(pulse.until_silent(served.stub, 2.0))
    while len(beats) < 6:
        served.vitals.beat(1.0)
        await asyncio.sleep(0.02)
    assert not listening.done()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_an_adapter_is_a_name_and_a_file_that_is_there(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "formal.gguf"
    file.write_bytes(b"GGUF")
    await served.stub.LoadAdapter(worker_pb2.LoadAdapterRequest(name="formal", path=str(file)), timeout=5)
    assert served.adapters.loaded == {"formal": file}
    await served.stub.UnloadAdapter(worker_pb2.UnloadAdapterRequest(name="formal"), timeout=5)
    assert served.adapters.loaded == {}
    again = served.stub.UnloadAdapter(worker_pb2.UnloadAdapterRequest(name="formal"), timeout=5)
    assert (await served.refused(again)).reason == NoAdapter.reason


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("../formal", "/formal.gguf", BadAdapter.reason),
        ("", "/formal.gguf", BadAdapter.reason),
        ("x" * 65, "/formal.gguf", BadAdapter.reason),
        ("formal", "formal.gguf", BadAdapter.reason),
        ("formal", "/nowhere/formal.gguf", NoAdapter.reason),
    ],
)
async def test_what_is_no_adapter_is_refused(served: Served, name: str, path: str, reason: str) -> None:
    call = served.stub.LoadAdapter(worker_pb2.LoadAdapterRequest(name=name, path=path), timeout=5)
    assert (await served.refused(call)).reason == reason
    assert served.adapters.loaded == {}


async def test_a_worker_without_adapters_says_so() -> None:
    with pytest.raises(NoAdaptersHere):
        await WithoutAdapters().load("formal", Path("/formal.gguf"))
    with pytest.raises(NoAdapter):
        await WithoutAdapters().unload("formal")
