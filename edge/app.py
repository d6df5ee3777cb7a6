"""An edge from its start to its end: what it opens, in which order, and closes again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from deltaic.engine.metrics import metrics_served, registry_of
from deltaic.gateway.gateway import Limits
from deltaic.gateway.mounting import http_face
from deltaic.rpc.channel import open_channel
from deltaic.runtime.data_folder import own_data_folder, runtime_folder
from deltaic.runtime.lifetime import on_hangup
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.rate_schedule import RateSchedule
from deltaic.transfer.settings import sources_of
from edge.branch_deltas import file_of
from edge.config import EdgeSettings
from edge.index.embedded_valkey import EmbeddedValkey
from edge.operation.counts import Counts
from edge.operation.peers import PeerSources
from edge.operation.watches import CountedHost
from edge.parts import Own, Parts
from edge.spool.journal import STARTED, Journal
from edge.spool.spool import Spool

_log = structlog.get_logger(__name__)


class Edge:
    """One edge. `async with Edge(settings).running() as edge` serves until the context ends.

    `deltas` are there while it runs.
    """

    deltas: DeltaService

    def __init__(self, settings: EdgeSettings) -> None:
        self.settings = settings
        self.node = settings.name or f"edge@{socket.gethostname()}"
        self.port = self.http_port = self.metrics_port = 0
        self.index_url = settings.index_url
        self._valkey: EmbeddedValkey | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Edge"]:
        """Serve what is held, then follow the center, which need not be there.

        Raises DataFolderUnusable, DiskFailed, IndexUnreachable, PortInUse.
        """
        async with AsyncExitStack() as stack:
            own = await self._open(stack)
            registry = registry_of(own.host)
            self.metrics_port = await stack.enter_async_context(metrics_served(self.settings.metrics, registry))
            await stack.enter_async_context(own.deltas.running())
            parts = Parts(self.settings, own)
            registry.register(parts.collector)
            stack.push_async_callback(parts.hot_set.close)
            if self._valkey is not None:
                await stack.enter_async_context(self._valkey.running())
            await stack.enter_async_context(parts.index.running(parts.entry))
            await stack.enter_async_context(parts.branch.running())
            await self._listen(stack, parts, registry)
            await own.journal.record(STARTED, f"nodes/{self.node}", version=version("deltaic"))
            await stack.enter_async_context(parts.following())
            await stack.enter_async_context(on_hangup(parts.desk.reload.signalled))
            self._say_ready(parts)
            yield self

    async def _open(self, stack: AsyncExitStack) -> Own:
        """What the parts are made from; `stack` closes it."""
        settings = self.settings
        folder = stack.enter_context(own_data_folder(settings.data_dir, "edge"))
        run = runtime_folder(folder)
        # Two connections: a model coming in does not hold up an answer.
        bulk = await stack.enter_async_context(open_channel(settings.center, node=self.node))
        calls = await stack.enter_async_context(open_channel(settings.center, node=self.node))
        counts, limit = Counts(), RateLimit(RateSchedule.parse(settings.fetch_rate))
        peers = PeerSources(lambda each: open_channel(each, node=self.node), limit, counts)
        stack.push_async_callback(peers.close)
        sources = peers.beside(*sources_of(bulk, f"center {settings.center}", [], limit))
        peers.use(settings.peers)
        journal = Journal(await asyncio.to_thread(Spool, folder / "spool", settings.spool_bytes))
        await stack.enter_async_context(journal.running())
        files = await asyncio.to_thread(ModelFiles, folder / "models")
        host = CountedHost(
            run,
            settings.engine,
            self.node,
            "edge",
            log_level=settings.log_level,
            adapters=settings.adapters or folder / "adapters",
        )
        host.counts = counts
        stack.push_async_callback(host.close)
        self._valkey = None if settings.index_url else EmbeddedValkey(run)
        self.index_url = self._valkey.url if self._valkey else settings.index_url
        self.deltas = await asyncio.to_thread(
            DeltaService, folder / "deltas", settings.deltas_bytes, file_of(files), jobs=settings.delta_jobs
        )
        return Own(
            node=self.node,
            index_url=self.index_url,
            folder=folder,
            files=files,
            host=host,
            bulk=bulk,
            calls=calls,
            sources=sources,
            deltas=self.deltas,
            journal=journal,
            counts=counts,
            limit=limit,
            peers=peers,
        )

    async def _listen(self, stack: AsyncExitStack, parts: Parts, registry: CollectorRegistry) -> None:
        """The faces to clients: gRPC, not serving yet, and HTTP where the settings ask for it."""
        settings = self.settings
        await stack.enter_async_context(parts.server.running(grace=settings.drain_seconds, serving=False))
        self.port = parts.server.port
        self.http_port = await stack.enter_async_context(
            http_face(
                parts.answers,
                settings.http,
                Limits(settings.request_seconds, settings.http_body_bytes),
                grace=settings.drain_seconds,
                metrics=lambda: generate_latest(registry),
                health=lambda: parts.readiness().body(),
            )
        )

    def _say_ready(self, parts: Parts) -> None:
        _log.info(
            "edge.ready",
            node=self.node,
            listen=self.settings.listen,
            port=self.port,
            http_port=self.http_port,
            center=self.settings.center,
            channels=self.settings.channels,
            serving={key: str(revision) for key, revision in parts.hot_set.keys().items()},
        )
