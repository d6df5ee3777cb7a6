"""The center's parts, constructed and wired: the only place that knows all of them."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from center.answer import Answers
from center.audit_log import AuditLog
from center.audit_servicer import AuditServicer
from center.catalog import Catalog
from center.channel_deltas import ChannelDeltas
from center.collection import Collector
from center.config import CenterSettings
from center.database import Database
from center.delivered import Delivered
from center.fleet import Fleet
from center.fleet_servicer import FleetServicer
from center.hot import HotModels
from center.inference_servicer import LONGEST_ANSWER, InferenceServicer
from center.library import Library
from center.manifests import Manifests
from center.publishing import Publisher, TrialLoad
from center.registry_servicer import RegistryServicer
from center.shelf import Shelf
from center.tags import Tags
from center.trial import WorkerTrial
from center.watch import WatchHub
from deltaic.engine.host import ModelHost
from deltaic.engine.metrics import metrics_served, registry_of
from deltaic.errors import DeltaicError
from deltaic.gateway.gateway import Limits
from deltaic.gateway.mounting import http_face
from deltaic.rpc.server import Server
from deltaic.runtime.data_folder import own_data_folder, runtime_folder
from deltaic.runtime.lifetime import beside
from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.model_files import ModelFiles
from deltaic.store.reading import ReadersInTurn
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.threads import in_thread
from deltaic.v1 import audit_pb2_grpc, content_pb2_grpc, fleet_pb2_grpc, inference_pb2_grpc, registry_pb2_grpc

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the servicers are given."""

    database: Database
    catalog: Catalog
    chunks: ObjectChunkStore
    manifests: Manifests
    publisher: Publisher
    collector: Collector
    hot: HotModels
    hub: WatchHub
    deltas: DeltaService


class Center:
    """One center. Enter `running()` once; `deltas` are there while it runs."""

    deltas: DeltaService

    def __init__(self, settings: CenterSettings, *, trial_load: TrialLoad | None = None) -> None:
        """`trial_load` None loads every published file once in a worker process."""
        self._settings = settings
        self._trial_load = trial_load
        self.name = settings.name or f"center@{socket.gethostname()}"
        self.address = settings.listen
        self.http_port = self.metrics_port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Center"]:
        """Serve until the block ends; `address` is then where it listens.

        Raises DataFolderUnusable, DatabaseUnusable, BadStoreAddress, DiskFull, DiskFailed, PortInUse.
        """
        async with AsyncExitStack() as stack:
            parts = await self._open(stack)
            self.deltas = parts.deltas
            server = Server(self._settings.listen)
            answers = Answers(parts.catalog, parts.hot)
            _register(server, parts, answers)
            await stack.enter_async_context(server.running(grace=self._settings.grace))
            limits = Limits(LONGEST_ANSWER, self._settings.http_body_bytes)
            self.http_port = await stack.enter_async_context(
                http_face(answers, self._settings.http, limits, grace=self._settings.grace)
            )
            # Entered last, left first: who watches or waits would otherwise use up the grace of everybody else.
            stack.callback(parts.hub.close)
            if hours := self._settings.collect_hours:
                await stack.enter_async_context(beside(parts.collector.endlessly(hours, self.name)))
            stack.callback(parts.deltas.maker.stop_waiting)
            if not self.address.startswith("unix:"):
                self.address = f"{self.address.rpartition(':')[0]}:{server.port}"
            models, revisions = await in_thread(parts.catalog.counts)
            _log.info("center.ready", listen=self.address, node=self.name, models=models, revisions=revisions)
            yield self

    async def _open(self, stack: AsyncExitStack) -> _Parts:
        settings = self._settings
        folder = stack.enter_context(own_data_folder(settings.data_dir, "center"))
        run_dir = runtime_folder(folder)
        database = await in_thread(Database.open, settings.database_url)
        stack.callback(database.close)
        chunks = await in_thread(open_chunk_store, settings.chunks_address)
        catalog, manifests = Catalog(database), Manifests(chunks)
        shelf = await in_thread(_open_shelf, folder / "models", chunks, settings.cache_bytes)
        trial_load = self._trial_load or WorkerTrial(run_dir, settings.engine, self.name)
        host = ModelHost(run_dir, settings.engine, self.name, "center", log_level=settings.log_level)
        self.metrics_port = await stack.enter_async_context(metrics_served(settings.metrics, registry_of(host)))
        hot = HotModels(host, shelf, manifests, settings.hot_bytes)
        stack.push_async_callback(hot.close)
        publisher = Publisher(catalog, chunks, manifests, shelf, trial_load)
        library = Library(database, settings.keep_policy)
        collector = Collector(library, chunks, shelf, folder, settings.upload_hours * 3600)
        await _sign(collector)
        budget, hub = settings.deltas_bytes, WatchHub()
        deltas = await in_thread(DeltaService, folder / "deltas", budget, shelf.lease, jobs=settings.delta_jobs)
        await stack.enter_async_context(deltas.running())
        moves = ChannelDeltas(catalog, manifests, hub, deltas, settings.delta_history)
        await stack.enter_async_context(beside(moves.run()))
        return _Parts(database, catalog, chunks, manifests, publisher, collector, hot, hub, deltas)


def _open_shelf(folder: Path, chunks: ObjectChunkStore, cache_bytes: int) -> Shelf:
    return Shelf(ModelFiles(folder), chunks, cache_bytes)


async def _sign(collector: Collector) -> None:
    """A center starts also when its store does not answer or its disk is full."""
    try:
        await collector.sign()
    except DeltaicError as error:
        _log.warning("chunks.not_signed", message=str(error))


def _register(server: Server, parts: _Parts, answers: Answers) -> None:
    server.add(
        content_pb2_grpc.add_ContentServiceServicer_to_server,
        ContentServicer(ReadersInTurn(parts.deltas.shelf, parts.chunks), parts.chunks),
        "deltaic.v1.ContentService",
    )
    server.add(
        registry_pb2_grpc.add_RegistryServiceServicer_to_server,
        RegistryServicer(
            parts.catalog,
            parts.publisher,
            parts.manifests,
            parts.hub,
            Tags(parts.database),
            parts.collector,
            parts.deltas,
        ),
        "deltaic.v1.RegistryService",
    )
    server.add(
        inference_pb2_grpc.add_InferenceServiceServicer_to_server,
        InferenceServicer(answers),
        "deltaic.v1.InferenceService",
    )
    server.add(
        fleet_pb2_grpc.add_FleetServiceServicer_to_server,
        FleetServicer(Fleet(parts.database)),
        "deltaic.v1.FleetService",
    )
    server.add(
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditServicer(AuditLog(parts.database), Delivered(parts.database)),
        "deltaic.v1.AuditService",
    )
