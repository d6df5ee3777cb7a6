"""Plans and limits as messages, for the nodes that answer PlanUpdate and for those that ask."""

import math
from collections.abc import Callable
from itertools import pairwise

from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.transfer.errors import BadLimits
from deltaic.transfer.planning import MAX_CHAIN, Limits, Method, PricedPlan, Step
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest

MAX_HELD = 100

_METHODS = {
    Method.REUSE_CHUNKS: registry_pb2.UpdateStep.METHOD_REUSE_CHUNKS,
    Method.DELTA: registry_pb2.UpdateStep.METHOD_DELTA,
    Method.CHUNKS: registry_pb2.UpdateStep.METHOD_CHUNKS,
}

NameOf = Callable[[Digest], RevisionName]
"""What the revision with this manifest is called."""


def limits_of(request: registry_pb2.PlanUpdateRequest) -> Limits | None:
    """The limits that a node states; None for one that states none. Raises BadLimits."""
    if not request.HasField("limits"):
        return None
    sent = request.limits
    if not math.isfinite(sent.wait_seconds) or sent.wait_seconds < 0:
        raise BadLimits(f"a node cannot wait {sent.wait_seconds} seconds", hint="send 0 to be answered at once")
    return Limits(sent.link_bytes_per_second, sent.memory_bytes, sent.apply_bytes_per_second, sent.wait_seconds)


def limits_to_proto(limits: Limits) -> registry_pb2.NodeLimits:
    return registry_pb2.NodeLimits(
        link_bytes_per_second=limits.link_bytes_per_second,
        memory_bytes=limits.memory_bytes,
        apply_bytes_per_second=limits.apply_bytes_per_second,
        wait_seconds=limits.wait_seconds,
    )


def answer(revision: registry_pb2.Revision, plan: PricedPlan, name_of: NameOf) -> registry_pb2.PlanUpdateResponse:
    """The answer to PlanUpdate."""
    chunks = plan.chunks
    names = {str(step.source): str(name_of(step.source)) for step in plan.steps if step.source is not None}
    return registry_pb2.PlanUpdateResponse(
        revision=revision,
        reuse_from=[names[held] for held in chunks.reuse_from],
        reuse_bytes=chunks.reuse_bytes,
        fetch_bytes=chunks.fetch_bytes,
        fetch_chunks=chunks.fetch_chunks,
        steps=[_step_to_proto(step, name_of) for step in plan.steps],
    )


def deltas_in(response: registry_pb2.PlanUpdateResponse, want: Digest) -> list[Step]:
    """The deltas of an answer, in order, ending at `want`; none where it makes no sense. Raises nothing.

    A node that knows no deltas sends no steps.
    """
    try:
        steps = [_step_of(each) for each in response.steps if each.method == registry_pb2.UpdateStep.METHOD_DELTA]
    except DeltaicError:
        return []
    joined = all(before.target == after.source for before, after in pairwise(steps))
    return steps if joined and len(steps) <= MAX_CHAIN and steps and steps[-1].target == want else []


def _step_of(message: registry_pb2.UpdateStep) -> Step:
    """Raises BadDigest."""
    return Step(
        Method.DELTA,
        Digest.from_proto(message.from_manifest),
        Digest.from_proto(message.to_manifest),
        Digest.from_proto(message.delta),
        message.fetch_bytes,
        message.memory_bytes,
        message.seconds,
    )


def _step_to_proto(step: Step, name_of: NameOf) -> registry_pb2.UpdateStep:
    return registry_pb2.UpdateStep(
        from_revision=str(name_of(step.source)) if step.source is not None else "",
        to_revision=str(name_of(step.target)),
        method=_METHODS[step.method],
        from_manifest=step.source.to_proto() if step.source is not None else None,
        delta=step.delta.to_proto() if step.delta is not None else None,
        fetch_bytes=step.fetch_bytes,
        memory_bytes=step.memory_bytes,
        seconds=step.seconds,
        to_manifest=step.target.to_proto(),
    )
