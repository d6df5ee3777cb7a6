"""An edge as Prometheus families, beside those of its workers (deltaic.engine.metrics)."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.operation.counts import Counts
from edge.spool.spool import Spool

_PREFIX = "deltaic_edge_"

Gauges = Callable[[], dict[str, float]]


class EdgeCollector(Collector):
    """Any thread may collect: it reads numbers, and copies of small tables."""

    def __init__(self, counts: Counts, spool: Spool, gauges: Gauges, index_errors: Callable[[], int]) -> None:
        """`gauges` gives those of TEXTS that belong to other parts, by name."""
        self._counts = counts
        self._spool = spool
        self._gauges = gauges
        self._index_errors = index_errors

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        requests = CounterMetricFamily(
            f"{_PREFIX}requests", "Requests by how they ended and where.", labels=("outcome", "place")
        )
        for (ended, place), count in counts.requests.copy().items():
            requests.add_metric((ended.value, place.value), count)
        yield requests
        yield _by("loads", "Models loaded, by where they were.", "tier", dict(counts.loads))
        yield _by("load_seconds", "Seconds that loads took.", "tier", dict(counts.load_seconds))
        yield _by("fetched_bytes", "Bytes over the line, by source.", "source", dict(counts.wire_bytes))
        for name, text, value in (
            ("evictions", "Models that made room or were removed.", counts.evictions),
            ("saved_bytes", "Bytes that deltas saved the line.", counts.saved_by_deltas),
            ("index_errors", "Calls of the index that failed.", self._index_errors()),
            ("spool_lost", "Entries that could not be kept for the center.", self._spool.lost),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value=value)
        gauges = self._gauges() | {
            "spool_entries": self._spool.entries,
            "spool_bytes": self._spool.bytes,
            "spool_budget_bytes": self._spool.budget_bytes,
        }
        for name, text in TEXTS.items():
            if name in gauges:
                yield GaugeMetricFamily(_PREFIX + name, text, value=gauges[name])


TEXTS = {
    "hot_bytes": "Bytes of memory that loaded models take.",
    "hot_budget_bytes": "Bytes of memory that they may take.",
    "loaded_models": "Revisions that are loaded.",
    "held_models": "Revisions on the disk.",
    "in_flight": "Requests that are being answered.",
    "serving": "1 when a load balancer should send requests here.",
    "draining": "1 while this edge takes no new requests.",
    "line_up": "1 while the center is heard.",
    "devices": "Devices that reported here.",
    "spool_entries": "Entries that wait for the center.",
    "spool_bytes": "Bytes of the spool on the disk.",
    "spool_budget_bytes": "Bytes that it may take.",
}


def _by(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
