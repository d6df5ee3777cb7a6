"""Workers as Prometheus reads them."""

import asyncio
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deltaic.engine.ending import Cause
from deltaic.engine.host import ModelHost
from deltaic.engine.metrics import metrics_served, registry_of
from deltaic.engine.report import with_loads
from deltaic.engine.settings import EngineSettings
from deltaic.engine.supervisor import Worker
from deltaic.engine.worker.vitals import Backend, How, Load, Vitals
from deltaic.engine.worker_process import WorkerSpec
from deltaic.names import RevisionName
from deltaic.rpc.server import PortInUse
from deltaic.v1 import fleet_pb2

REVISION = RevisionName("tiny", "sha256:" + "12" * 32)
LABELS = {"model": "tiny", "revision": "121212121212", "worker": "w1"}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker that was heard once, after one restart."""
    spec = WorkerSpec(REVISION, Path("tiny.gguf"), "edge@test", "edge", EngineSettings())
    worker = Worker(spec, tmp_path, "w1")
    vitals = Vitals()
    vitals.describe(4, 8192, Backend())
    vitals.beat(1.0, Load(running=3, waiting=2, parked=1, kv_tokens=700, prefix_bytes=9))
    for seconds in (0.02, 0.02, 99.0):
        vitals.observe_first_token(seconds)
    vitals.count_prompt(100, cached=80)
    vitals.count_finished(How.STOP)
    worker.pulse.last = vitals.snapshot()
    worker.ends[Cause.HUNG] += 1
    return worker


@pytest.fixture
def host(tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHost]:
    host = ModelHost(tmp_path, EngineSettings(), "edge@test", "edge")
    monkeypatch.setattr(host, "workers", lambda: [worker])
    return host


async def read(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(await asyncio.to_thread(get)):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


async def test_a_scrape_has_what_the_last_heartbeat_said(host: ModelHost) -> None:
    async with metrics_served("127.0.0.1:0", registry_of(host)) as port:
        samples = await read(port)
    for name, value in (
        ("running", 3), ("waiting", 2), ("parked", 1), ("slots", 4), ("kv_tokens", 700), ("kv_capacity_tokens", 8192),
        ("prompt_tokens_total", 100), ("cached_tokens_total", 80), ("prefix_hits_total", 1), ("preemptions_total", 0),
    ):  # fmt: skip
        assert samples[f"deltaic_worker_{name}"] == [(LABELS, value)], name
    assert samples["deltaic_worker_requests_total"] == [(LABELS | {"how": "stop"}, 1)]
    assert samples["deltaic_worker_ends_total"] == [(LABELS | {"why": "hung"}, 1)]
    assert "process_resident_memory_bytes" in samples


async def test_a_histogram_is_cumulative_and_ends_with_everything(host: ModelHost) -> None:
    async with metrics_served("127.0.0.1:0", registry_of(host)) as port:
        samples = await read(port)
    buckets = {labels["le"]: value for labels, value in samples["deltaic_worker_first_token_seconds_bucket"]}
    assert (buckets["0.01"], buckets["0.025"], buckets["60.0"], buckets["+Inf"]) == (0, 2, 2, 3)
    assert samples["deltaic_worker_first_token_seconds_count"] == [(LABELS, 3)]
    assert samples["deltaic_worker_first_token_seconds_sum"] == [(LABELS, pytest.approx(99.04))]
    for name in ("queue_seconds", "inter_token_seconds", "step_seconds", "batch_tokens"):
        assert samples[f"deltaic_worker_{name}_count"] == [(LABELS, 0)]


async def test_a_worker_that_was_not_heard_yet_is_left_out(host: ModelHost, worker: Worker) -> None:
    worker.pulse.last = None
    async with metrics_served("127.0.0.1:0", registry_of(host)) as port:
        samples = await read(port)
    assert not [name for name in samples if name.startswith("deltaic_worker_")]


async def test_no_address_opens_nothing(host: ModelHost) -> None:
    async with metrics_served("", registry_of(host)) as port:
        assert port == 0


async def test_an_address_that_is_taken_is_said(host: ModelHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortInUse, match="--metrics"):
            async with metrics_served(address, registry_of(host)):
                pass


def test_a_report_shows_what_the_worker_of_a_channel_has_in_hand(host: ModelHost) -> None:
    served = fleet_pb2.ModelState(channel="models/tiny/channels/stable", serving_revision=str(REVISION))
    other = fleet_pb2.ModelState(channel="models/tiny/channels/canary")
    told = with_loads([served, other], host)
    assert told[0].worker == fleet_pb2.WorkerLoad(
        running=3, waiting=2, parked=1, slots=4, kv_tokens=700, kv_capacity=8192, restarts=1
    )
    assert not told[1].HasField("worker")
    assert not served.HasField("worker")
