"""One update of one channel: from the revision that it names to a complete, verified file."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from deltaic.rpc.status import from_rpc_error
from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.fetch import Fetch, FetchStats, fetch_manifest
from deltaic.transfer.progress import Reached
from deltaic.transfer.source import Source
from deltaic.transfer.threads import in_thread
from deltaic.v1 import registry_pb2, registry_pb2_grpc
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

_PLAN_TIMEOUT_SECONDS = 10.0
_MAX_HAVE = 100


@dataclass(frozen=True, slots=True)
class Held:
    """A complete file that was verified by this process."""

    path: Path
    manifest: Manifest


class Obtainer:
    """Makes files of revisions: takes what is here, fetches what is not. Each revision by one task at a time."""

    def __init__(
        self,
        files: ModelFiles,
        sources: Sequence[Source],
        upstream: grpc.aio.Channel,
        upstream_name: str,
        *,
        in_flight: int,
        retry: Retry,
    ) -> None:
        self.files = files
        self._sources = sources
        self._stub = registry_pb2_grpc.RegistryServiceStub(upstream)
        self._upstream_name = upstream_name
        self._in_flight = in_flight
        self._retry = retry
        self._locks: dict[str, asyncio.Lock] = {}
        self._verified: set[str] = set()

    async def held(self, state: ChannelState) -> Held | None:
        """The file of a revision if it is here and whole, hashed again unless this process did so before.

        A damaged file is turned back into a growing one, so that fetching repairs its bad chunks only.
        """
        hex_ = state.revision.hex
        manifest, path = self.files.manifest(hex_), self.files.path(hex_)
        if manifest is None or path is None:
            return None
        if hex_ not in self._verified:
            if damaged := await in_thread(self.files.damaged, hex_):
                _log.error("update.file_damaged", file=str(path), chunks=len(damaged), first_offset=damaged[0].offset)
                await in_thread(self.files.reopen, hex_)
                return None
            self._verified.add(hex_)
        return Held(path, manifest)

    async def obtain(self, state: ChannelState, progress: "UpdateMeter") -> Held:
        """The file of a revision, fetched where it is not here. Raises DeltaicError; what arrived is kept."""
        hex_ = state.revision.hex
        async with self._locks.setdefault(hex_, asyncio.Lock()):
            if held := await self.held(state):
                progress.whole(held.manifest)
                return held
            await self._log_plan(state)
            manifest, wire_bytes = await fetch_manifest(self._sources, state.manifest, retry=self._retry)
            progress.described(manifest, wire_bytes)
            staging = await in_thread(self.files.stage, manifest)
            try:
                held = await self._fill(staging, progress)
            finally:
                await in_thread(staging.close)
            self._verified.add(hex_)
            return held

    def removed(self, revision_hex: str) -> None:
        """The files of a revision are gone."""
        self._verified.discard(revision_hex)
        self._locks.pop(revision_hex, None)

    async def _fill(self, staging: Staging, progress: "UpdateMeter") -> Held:
        fetch = Fetch(
            staging, self._sources, in_flight=self._in_flight, on_progress=progress.advanced, retry=self._retry
        )
        progress.fetching(lambda: fetch.stats)
        await fetch.run()
        return Held(await in_thread(staging.commit), staging.manifest)

    async def _log_plan(self, state: ChannelState) -> None:
        """Ask what the update should cost. It is advice: what is reused is decided by hashing what is here."""
        have = [f"{state.revision.of_model}/revisions/{each.revision}" for each in self.files.revisions()[:_MAX_HAVE]]
        request = registry_pb2.PlanUpdateRequest(want=str(state.revision), have=have)
        try:
            plan = await self._stub.PlanUpdate(request, timeout=_PLAN_TIMEOUT_SECONDS)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, self._upstream_name)
            _log.debug("update.no_plan", revision=str(state.revision), error=error.message)
            return
        _log.info(
            "update.planned",
            revision=str(state.revision),
            reuse_bytes=plan.reuse_bytes,
            fetch_bytes=plan.fetch_bytes,
            fetch_chunks=plan.fetch_chunks,
        )


class UpdateMeter:
    """The numbers of one update, read while it runs, as `deltaic.v1.UpdateProgress` defines them.

    Every byte of the file needed fetching or did not, so what is reused and what is fetched are the whole of it in the
    end, and the manifest over.
    """

    def __init__(self, on_advance: Callable[[], None]) -> None:
        self._on_advance = on_advance
        self._manifest_bytes = 0
        self._manifest_wire_bytes = 0
        self._stats: Callable[[], FetchStats] | None = None
        self._held_bytes = 0
        self._repeated_bytes = 0
        self.full_bytes = 0

    def whole(self, manifest: Manifest) -> None:
        """The file was here."""
        self.full_bytes = self._held_bytes = manifest.size

    def described(self, manifest: Manifest, wire_bytes: int) -> None:
        """The manifest has arrived."""
        self.full_bytes = manifest.size
        self._repeated_bytes = manifest.size - sum(digest.size for digest in manifest.unique)
        self._manifest_bytes, self._manifest_wire_bytes = manifest.digest.size, wire_bytes

    def fetching(self, stats: Callable[[], FetchStats]) -> None:
        """Chunks begin to arrive."""
        self._stats = stats

    def advanced(self, _done: int, _total: int) -> None:
        """One chunk more."""
        self._on_advance()

    @property
    def reused_bytes(self) -> int:
        """Bytes of the file that need no fetching: held whole, left by an earlier attempt, copied, or said twice."""
        if self._stats is None:
            return self._held_bytes
        stats = self._stats()
        return self._repeated_bytes + stats.resumed_bytes + stats.reused_bytes

    @property
    def fetched_bytes(self) -> int:
        return self._manifest_bytes + (self._stats().fetched_bytes if self._stats else 0)

    @property
    def reached(self) -> Reached:
        """All of them at once."""
        arriving = self._stats().arriving_bytes if self._stats else 0
        chunks = self.fetched_bytes - self._manifest_bytes
        return Reached(
            self.full_bytes, self.reused_bytes, chunks, self._manifest_bytes, self.wire_bytes, arriving
        )  # fmt: skip

    @property
    def wire_bytes(self) -> int:
        return self._manifest_wire_bytes + (self._stats().wire_bytes if self._stats else 0)
