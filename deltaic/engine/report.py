"""What a node's report says of its workers."""

from collections.abc import Iterable

from deltaic.engine.host import ModelHost
from deltaic.engine.supervisor import Worker
from deltaic.v1 import fleet_pb2


def with_loads(states: Iterable[fleet_pb2.ModelState], host: ModelHost) -> list[fleet_pb2.ModelState]:
    """The states of channels, each with what the worker that answers it has in hand."""
    loads = {str(worker.spec.revision): load for worker in host.workers() if (load := _load(worker)) is not None}
    told = []
    for state in states:
        copy = fleet_pb2.ModelState()
        copy.CopyFrom(state)
        if (load := loads.get(state.serving_revision)) is not None:
            copy.worker.CopyFrom(load)
        told.append(copy)
    return told


def _load(worker: Worker) -> fleet_pb2.WorkerLoad | None:
    last = worker.pulse.last
    if last is None:
        return None
    return fleet_pb2.WorkerLoad(
        running=last.running,
        waiting=last.waiting,
        parked=last.parked,
        slots=last.slots,
        kv_tokens=last.kv_tokens,
        kv_capacity=last.kv_capacity,
        restarts=worker.ends.total(),
    )
