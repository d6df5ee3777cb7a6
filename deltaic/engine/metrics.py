"""The workers of a node as Prometheus families, made of their last heartbeats when somebody asks.

Labels are `model`, `revision` (its first twelve digits) and `worker`, a name that outlives restarts; after one,
counters begin at 0 again, which Prometheus understands.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deltaic.engine.host import ModelHost
from deltaic.engine.supervisor import Worker
from deltaic.rpc.server import PortInUse
from deltaic.runtime.addresses import host_and_port
from deltaic.v1 import worker_pb2

_log = structlog.get_logger(__name__)
_PREFIX = "deltaic_worker_"
_LABELS = ("model", "revision", "worker")
_SHORT = 12

_State = worker_pb2.HeartbeatResponse


@dataclass(frozen=True, slots=True)
class _Told:
    labels: tuple[str, ...]
    state: _State
    worker: Worker


_HISTOGRAMS = (
    ("queue_seconds", "From arrival until a slot was free.", "queue"),
    ("first_token_seconds", "From arrival to the first token.", "first_token"),
    ("inter_token_seconds", "Between two tokens of one answer.", "inter_token"),
    ("step_seconds", "One decode call.", "step"),
    ("batch_tokens", "Tokens of one decode call.", "batch_tokens"),
)
_COUNTERS = (
    ("prompt_tokens", "Prompt tokens of requests that were admitted.", "prompt_tokens"),
    ("cached_tokens", "Of these, tokens whose state was still there.", "cached_tokens"),
    ("generated_tokens", "Tokens generated.", "generated_tokens"),
    ("prefix_hits", "Requests whose prompt began with something known.", "prefix_hits"),
    ("prefix_misses", "Requests whose prompt did not.", "prefix_misses"),
    ("preemptions", "Running requests that were set aside for others.", "preemptions"),
)
_GAUGES: tuple[tuple[str, str, Callable[[_State], int]], ...] = (
    ("running", "Requests that decode or read their prompt.", lambda state: state.running),
    ("waiting", "Requests that wait for a slot.", lambda state: state.waiting),
    ("parked", "Requests set aside with their state.", lambda state: state.parked),
    ("slots", "Requests that can run at once.", lambda state: state.slots),
    ("kv_tokens", "Tokens in the key-value memory.", lambda state: state.kv_tokens),
    ("kv_capacity_tokens", "Tokens that it can hold.", lambda state: state.kv_capacity),
    ("prefix_bytes", "Bytes of prompt states kept beside it.", lambda state: state.prefix_bytes),
)


class WorkerCollector(Collector):
    """Reads what the loop has last heard; any thread may collect."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        workers = self._host.workers()
        told = [_Told(_labels(each), state, each) for each in workers if (state := each.pulse.last) is not None]
        for name, text, field in _HISTOGRAMS:
            yield _histogram(name, text, ((each.labels, getattr(each.state.times, field)) for each in told))
        for name, text, field in _COUNTERS:
            counter = CounterMetricFamily(_PREFIX + name, text, labels=_LABELS)
            for each in told:
                counter.add_metric(each.labels, getattr(each.state.counters, field))
            yield counter
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(_PREFIX + name, text, labels=_LABELS)
            for each in told:
                gauge.add_metric(each.labels, read(each.state))
            yield gauge
        yield _by("requests", "Requests that ended, by how.", "how", told, lambda each: each.state.counters.finished)
        yield _by("ends", "Processes that ended by themselves, by why.", "why", told, lambda each: each.worker.ends)


def _labels(worker: Worker) -> tuple[str, ...]:
    revision = worker.spec.revision
    return revision.model, revision.hex[:_SHORT], worker.name


def _histogram(name: str, text: str, rows: Iterable[tuple[tuple[str, ...], worker_pb2.Histogram]]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=_LABELS)
    for labels, told in rows:
        bounds = [*map(str, told.bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(told.counts), strict=True)), told.sum)
    return family


def _by(name: str, text: str, label: str, told: Iterable[_Told], read: Callable[[_Told], object]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=(*_LABELS, label))
    for each in told:
        counts: dict[str, int] = dict(read(each))  # type: ignore[call-overload]  # a map of a message, or a Counter
        for value, count in counts.items():
            family.add_metric((*each.labels, value), count)
    return family


def registry_of(host: ModelHost) -> CollectorRegistry:
    """What a node shows: its workers, and its own process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerCollector(host))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@asynccontextmanager
async def metrics_served(address: str, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Answer Prometheus at HOST:PORT until the context ends; the port, 0 when `address` is empty. Raises PortInUse."""
    if not address:
        yield 0
        return
    host, port = host_and_port(address)
    try:
        server, thread = start_http_server(port, host.strip("[]") or "0.0.0.0", registry)  # noqa: S104  # no host is all
    except OSError as error:
        hint = f"{error.strerror or error}: choose another with --metrics"
        raise PortInUse(f"cannot show metrics at {address}", hint=hint) from None
    _log.info("metrics.listening", host=host, port=server.server_port)
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
