"""Neighbours that the settings name (`--peers`), asked directly what they have loaded: for when the index is gone."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import structlog

from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import inference_pb2, inference_pb2_grpc
from edge.branch.lines import Lines
from edge.index.entries import Neighbour, NodeEntry, RevisionEntry
from edge.index.neighbours import matching
from edge.route import Target

_log = structlog.get_logger(__name__)

EVERY_SECONDS = 3.0
_CALL_SECONDS = 1.0
_MOST_MODELS = 1_000


class Peers:
    """What each peer said last, for three times EVERY_SECONDS."""

    def __init__(
        self,
        addresses: Callable[[], Sequence[str]],
        lines: Lines,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`addresses` of the settings, which may change."""
        self._addresses = addresses
        self._lines = lines
        self._clock = clock
        self._said: dict[str, tuple[float, NodeEntry]] = {}

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            async with asyncio.TaskGroup() as asking:
                for address in self._addresses():
                    asking.create_task(self._ask(address))
            await asyncio.sleep(EVERY_SECONDS)

    def of(self, target: Target) -> tuple[Neighbour, ...]:
        """Those that answered for a target of late. They are known by their address."""
        fresh = self._clock() - 3 * EVERY_SECONDS
        known = [(address, self._said.get(address)) for address in self._addresses()]
        return tuple(
            neighbour
            for address, said in known
            if said is not None and said[0] > fresh
            for neighbour in matching(target, f"edge {address}", said[1])
        )

    async def _ask(self, address: str) -> None:
        try:
            async with self._lines.used(address) as channel:
                stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
                began = self._clock()
                listed = await stub.ListModels(inference_pb2.ListModelsRequest(), timeout=_CALL_SECONDS)
            self._lines.measured(address, self._clock() - began)
            self._said[address] = (self._clock(), _entry(address, listed))
        except (grpc.RpcError, DeltaicError) as error:
            if self._said.pop(address, None) is not None:
                _log.info("peer.silent", peer=address, why=type(error).__name__)


def _entry(address: str, listed: inference_pb2.ListModelsResponse) -> NodeEntry:
    """The peer's word as an index would have it. Raises BadName."""
    keys: dict[RevisionName, tuple[str, ...]] = {}
    for served in listed.models[:_MOST_MODELS]:
        revision = RevisionName.parse(served.revision)
        key = str(ChannelName.parse(served.channel)) if served.channel else str(revision)
        keys[revision] = (*keys.get(revision, ()), key)
    revisions: Mapping[RevisionName, RevisionEntry] = {
        revision: RevisionEntry(held=True, keys=named) for revision, named in keys.items()
    }
    return NodeEntry(address, revisions)
