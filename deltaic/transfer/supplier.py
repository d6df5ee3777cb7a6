"""A node that updates come from: it says what the cheapest way is, and has the bytes of it."""

from collections.abc import Sequence

import grpc
import structlog

from deltaic.rpc.status import from_rpc_error
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.plan_messages import MAX_HELD, deltas_in, limits_to_proto
from deltaic.transfer.planning import Limits, Step
from deltaic.transfer.source import Source
from deltaic.v1 import registry_pb2, registry_pb2_grpc

_log = structlog.get_logger(__name__)

_PLAN_TIMEOUT_SECONDS = 10.0


class Supplier:
    """The RegistryService of a node beside its bytes."""

    def __init__(self, channel: grpc.aio.Channel, source: Source, address: str = "") -> None:
        """`source` reads from the node that `channel` leads to, at `address` where that tells it from others."""
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)
        self.source = source
        self.address = address

    async def plan(self, state: ChannelState, held: Sequence[str], limits: Limits) -> list[Step]:
        """The deltas of the cheapest way to a revision from those `held` (hex digests, the likeliest base first).

        None where chunks are cheaper, or the node does not answer. A plan is advice: what is reused, and what deltas
        make, is decided by hashing it. A node that has to make a delta first may take the time that `limits` grant it.
        """
        request = registry_pb2.PlanUpdateRequest(
            want=str(state.revision),
            have=[f"{state.revision.of_model}/revisions/sha256:{each}" for each in held[:MAX_HELD]],
            limits=limits_to_proto(limits),
        )
        try:
            plan = await self._stub.PlanUpdate(request, timeout=_PLAN_TIMEOUT_SECONDS + limits.wait_seconds)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, self.source.name)
            _log.debug("update.no_plan", revision=str(state.revision), error=error.message)
            return []
        deltas = deltas_in(plan, state.manifest)
        _log.info(
            "update.planned",
            revision=str(state.revision),
            by=self.source.name,
            reuse_bytes=plan.reuse_bytes,
            fetch_bytes=sum(step.fetch_bytes for step in deltas) if deltas else plan.fetch_bytes,
            fetch_chunks=0 if deltas else plan.fetch_chunks,
            deltas=len(deltas),
        )
        return deltas
