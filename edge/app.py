"""The wiring of an edge: the only place where its parts are made and the only one that opens channels."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog
from prometheus_client import generate_latest

from deltaic.engine.metrics import metrics_served, registry_of
from deltaic.engine.placement.gpus import NvmlGpus
from deltaic.engine.report import with_loads
from deltaic.errors import DeltaicError
from deltaic.gateway.gateway import Limits
from deltaic.gateway.mounting import http_face
from deltaic.names import ChannelName, RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.reporting import Reporter, own_report
from deltaic.rpc.server import Server
from deltaic.runtime.data_folder import own_data_folder, runtime_folder
from deltaic.runtime.lifetime import beside, on_hangup
from deltaic.runtime.logs import set_level
from deltaic.store.model_files import ModelFiles
from deltaic.store.reading import ReadersInTurn
from deltaic.transfer.channel_book import ChannelBook, ChannelState
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.transfer.deltas.keeping import DeltaKeeper
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.follow import BOOK_NAME, Follower
from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.rate_schedule import RateSchedule
from deltaic.transfer.settings import sources_of
from deltaic.transfer.source import Source
from deltaic.transfer.update import USUAL_LIMITS
from deltaic.v1 import content_pb2_grpc, fleet_pb2, fleet_pb2_grpc, inference_pb2, inference_pb2_grpc, registry_pb2_grpc
from deltaic.weights.manifest import Manifest
from edge.answer import Answers
from edge.branch.branch import Branch
from edge.branch.ways import Here, Policy
from edge.branch_deltas import earlier, file_of
from edge.center_line import CenterLine
from edge.coming import Coming
from edge.config import EdgeSettings
from edge.fleet import Fleet
from edge.fleet_servicer import FleetServicer
from edge.hot.hot_set import HotSet
from edge.hot.load_costs import Tier
from edge.hot.needs import Needs, vram_budget
from edge.hot.patience import Patience
from edge.hot.tending import tended
from edge.index.embedded_valkey import EmbeddedValkey
from edge.index.entries import NodeEntry, RevisionEntry
from edge.index.keys import Keys
from edge.index.prefixes import PrefixBook
from edge.index.redis_index import IndexServer, RedisIndex
from edge.index.secret import IndexSecret
from edge.index.showing import advertised, shown
from edge.inference_servicer import InferenceServicer
from edge.mirror import Mirror
from edge.mirror_servicer import MirrorServicer
from edge.named_answers import NamedAnswers
from edge.noted_answers import NotedAnswers
from edge.operation.counts import Counts
from edge.operation.desk import Desk
from edge.operation.door import Door
from edge.operation.health import Health, Readiness, readiness
from edge.operation.metrics import EdgeCollector
from edge.operation.peers import PeerSources
from edge.operation.reload import Reload
from edge.operation.status import Sources, hot_bytes, status_of
from edge.operation.watches import CountedHost, LineWatch, LoadedWatch
from edge.places import Places
from edge.response_cache import ResponseCache
from edge.response_settings import answer_bounds, cache_settings
from edge.route import Target
from edge.spool.delivery import Delivery
from edge.spool.journal import STARTED, STOPPED, SWITCH_FAILED, SWITCHED, Journal
from edge.spool.spool import Spool
from edge.spool.tally import Tally
from edge.statistics import RequestStatistics
from edge.tags import TAGS_NAME, TagBook

_log = structlog.get_logger(__name__)

_INFERENCE = "deltaic.v1.InferenceService"
_CONTENT = "deltaic.v1.ContentService"
_REGISTRY = "deltaic.v1.RegistryService"
_FLEET = "deltaic.v1.FleetService"


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

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Edge"]:
        """Serve what is held, then follow the center, which need not be there.

        Raises DataFolderUnusable, DiskFailed, IndexUnreachable, PortInUse.
        """
        settings = self.settings
        async with AsyncExitStack() as stack:
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
            spool = await asyncio.to_thread(Spool, folder / "spool", settings.spool_bytes)
            journal = Journal(spool)
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
            registry = registry_of(host)
            self.metrics_port = await stack.enter_async_context(metrics_served(settings.metrics, registry))
            valkey = None if settings.index_url else EmbeddedValkey(run)
            self.index_url = valkey.url if valkey else settings.index_url
            deltas = self.deltas = await asyncio.to_thread(
                DeltaService, folder / "deltas", settings.deltas_bytes, file_of(files), jobs=settings.delta_jobs
            )
            await stack.enter_async_context(deltas.running())
            parts = _Parts(self, folder, files, host, bulk, calls, sources, _Own(deltas, journal, counts, limit, peers))
            registry.register(parts.collector)
            stack.push_async_callback(parts.hot_set.close)
            if valkey is not None:
                await stack.enter_async_context(valkey.running())
            await stack.enter_async_context(parts.index.running(parts.entry))
            await stack.enter_async_context(parts.branch.running())
            await stack.enter_async_context(parts.server.running(grace=settings.drain_seconds, serving=False))
            self.port = parts.server.port
            limits = Limits(settings.request_seconds, settings.http_body_bytes)
            self.http_port = await stack.enter_async_context(
                http_face(
                    parts.answers,
                    settings.http,
                    limits,
                    grace=settings.drain_seconds,
                    metrics=lambda: generate_latest(registry),
                    health=lambda: parts.readiness().body(),
                )
            )
            await journal.record(STARTED, f"nodes/{self.node}", version=version("deltaic"))
            await stack.enter_async_context(parts.following())
            await stack.enter_async_context(on_hangup(parts.desk.reload.signalled))
            self._say_ready(parts)
            yield self

    def _say_ready(self, parts: "_Parts") -> None:
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


@dataclass(frozen=True, slots=True)
class _Own:
    """What an edge keeps of itself, and what of its settings can change."""

    deltas: DeltaService
    journal: Journal
    counts: Counts
    limit: RateLimit
    peers: PeerSources


class _Parts:
    """All parts of a running edge, and what they tell each other."""

    def __init__(
        self,
        edge: Edge,
        folder: Path,
        files: ModelFiles,
        host: CountedHost,
        bulk: grpc.aio.Channel,
        calls: grpc.aio.Channel,
        sources: Sequence[Source],
        own: _Own,
    ) -> None:
        settings, node = edge.settings, edge.node
        self._node = node
        self._folder, self._host = folder, host
        self._followed = settings.followed
        self._advertise, self._listen = settings.advertise, settings.listen
        deltas = own.deltas
        self._files, self._deltas, self._delta_history = files, deltas, settings.delta_history
        center = f"center {settings.center}"
        self._statistics = RequestStatistics()
        self._prefixes, secret = PrefixBook(), IndexSecret(settings.index_secret)
        self.index = RedisIndex(
            IndexServer(edge.index_url, settings.index_ca, embedded=not settings.index_url),
            Keys(settings.branch, node),
            self._statistics,
            secret=secret,
            answers=answer_bounds(settings),
        )
        self.branch = Branch(
            self.index,
            lambda address: open_channel(address, node=node),
            lambda: own.peers.addresses,
            self._address,
            hedge_share=settings.hedge_share,
        )
        self._prefetch_seconds = settings.hot_prefetch_seconds
        gpus = NvmlGpus().gpus()
        self.hot_set = HotSet(
            host,
            files,
            settings.hot_bytes,
            vram_budget=vram_budget(settings.hot_vram_bytes, gpus),
            needs=Needs(settings.engine, settings.adapters or folder / "adapters", gpus),
            patience=Patience(
                settings.hot_residency_seconds,
                settings.hot_collate_seconds,
                settings.hot_wait_seconds,
                settings.engine.slots + settings.engine.queue,
            ),
            kept=lambda: frozenset(each for each in settings.pinned if self._mirror.held(each)),
            on_change=self._hot_set_changed,
        )
        self._own, self._stopping = own, False
        self._loaded = LoadedWatch(self.hot_set.keys, own.counts, own.journal.note)
        self._follower = Follower(
            self._followed,
            bulk,
            files,
            self._activate,
            data_dir=folder,
            upstream_name=center,
            on_state=self._moved,
            sources=sources,
            in_flight=settings.fetch_streams,
            limits=replace(USUAL_LIMITS, wait_seconds=settings.delta_wait),
            keeper=DeltaKeeper(deltas.shelf) if settings.deltas_bytes else None,
            turns=self.branch.turns(settings.fetch_rate, self._obtained),
        )
        self._mirror = Mirror(files, self._follower.held)
        self._reporter = Reporter(calls, center, every=settings.report_seconds)
        self._fleet = Fleet(node, self._report, self._reporter.changed)
        self._coming = Coming(self._followed, self._follower.states, lambda: self._follower.online)
        self._line = CenterLine(calls, center, self._coming)
        here = Here(self.hot_set.loaded, self._revision_of, self._coming, self._shown, self._load_seconds)
        ways = self.branch.ways(here, lambda: self._line.up, Policy(frozenset(settings.no_escalation)), secret)
        places = Places(self.hot_set, self.branch.lines, self._line)
        answers = Answers(ways, self.branch.trying, places, self.hot_set.serving, self.index, self._statistics)
        self._cache = ResponseCache(cache_settings(settings, node), self.index, secret)
        noted = NotedAnswers(
            node, answers, self._cache, self._revision_of, self.index, self._prefixes, secret, self._statistics
        )
        self._tally = Tally(own.journal.note)
        self.door = Door(noted, node, own.counts, self._tally)
        self.tags = TagBook(calls, center, folder / TAGS_NAME)
        self.answers = NamedAnswers(self.door, self.tags, self._is_channel)
        self._delivery = Delivery(calls, center, node, own.journal, random.random)
        self.server = Server(settings.listen)
        self._operate(settings)
        self._register(InferenceServicer(self.answers, settings.request_seconds), settings.center)

    def _operate(self, settings: EdgeSettings) -> None:
        """The operator's part: health, status, metrics, reload."""
        own, watch = self._own, LineWatch()
        self.health = Health(self.readiness, self.server.set_serving, ["", _INFERENCE])
        appliers = {
            "channels": self._follow,
            "fetch_rate": self._limit,
            "hot_bytes": self._resize,
            "log_level": self._log_from,
            "peers": self._use_peers,
        }
        reload = Reload(settings, settings.again, appliers, own.journal.record)
        parts = Sources(
            report=self._report,
            hot=self.hot_set,
            held=self._files_held,
            followed=lambda: self._followed,
            door=self.door,
            readiness=self.readiness,
            counts=own.counts,
            line=watch,
            spool=own.journal.spool,
            upstream=f"center {settings.center}",
            address=settings.center,
            started=time.time(),
        )
        self.desk = Desk(
            self.door, self.health, own.journal, reload, lambda: status_of(parts), lambda: watch.look(self._line_up())
        )
        self.collector = EdgeCollector(
            own.counts, own.journal.spool, lambda: self._gauges(watch), lambda: self.index.errors
        )

    def _register(self, inference: InferenceServicer, center: str) -> None:
        add = self.server.add
        content = ContentServicer(ReadersInTurn(self._deltas.shelf, self._files), None)
        registry = MirrorServicer(self._mirror, self._deltas, center)
        add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, inference, _INFERENCE)
        add(content_pb2_grpc.add_ContentServiceServicer_to_server, content, _CONTENT)
        add(registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry, _REGISTRY)
        add(fleet_pb2_grpc.add_FleetServiceServicer_to_server, FleetServicer(self._fleet, self.desk), _FLEET)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Serve what is held, keep it current, and report, until the context ends."""
        await self.server.set_serving(True, [_CONTENT, _REGISTRY, _FLEET])
        book = ChannelBook(self._folder / BOOK_NAME, self._followed)
        await asyncio.to_thread(book.load)
        await asyncio.to_thread(self.tags.load)
        for record in book.records.values():
            self._mirror.learn(record.states())
        await self.health.update()
        await self._follower.restore()
        async with (
            tended(self.hot_set, self._folder, self._prefetch_seconds),
            beside(
                self._follower.follow(),
                self._reporter.run(self._fleet.reports),
                self.desk.run(),
                self._tally.run(),
                self._delivery.run(),
            ),
        ):
            try:
                yield
            finally:
                self._stopping = True
                await self.server.set_serving(False)
                self._tally.flush()
                await self._own.journal.record(STOPPED, f"nodes/{self._node}")
                self._mirror.close()
                self._deltas.maker.stop_waiting()

    def entry(self) -> NodeEntry:
        """What the index shows of this edge."""
        revisions = self._revisions_held() | set(self.hot_set.keys().values())
        return NodeEntry(self._address(), {revision: self._shown(revision) for revision in revisions})

    def _shown(self, revision: RevisionName) -> RevisionEntry:
        """What this edge has of one revision."""
        workers = {worker.spec.revision: worker for worker in self._host.workers()}
        return shown(
            held=self._mirror.manifest(revision) is not None,
            keys=tuple(sorted(key for key, answers in self.hot_set.keys().items() if answers == revision)),
            leases=self.hot_set.leases().get(revision, 0),
            beat=workers[revision].pulse.last if revision in workers else None,
            prefixes=self._prefixes.of(revision),
        )

    def _address(self) -> str:
        """Where neighbours reach this edge."""
        return advertised(self._advertise, self._listen, self.server.port)

    def _load_seconds(self, revision: RevisionName) -> float:
        manifest = self._files.manifest(revision.hex)
        return self.hot_set.costs.seconds(str(revision), manifest.size if manifest is not None else 0, Tier.DISK)

    def _revisions_held(self) -> set[RevisionName]:
        return {RevisionName.parse(revision.name) for revision in self._mirror.revisions()}

    def _revision_of(self, target: Target) -> RevisionName | None:
        """Which revision this edge answers a target with."""
        return self.hot_set.keys().get(str(target)) or self._mirror.held(target)

    def _is_channel(self, name: ChannelName) -> bool:
        """Whether this edge knows a channel by that name."""
        return name in self._followed or self._mirror.held(name) is not None

    async def _activate(self, state: ChannelState, path: Path, manifest: Manifest) -> None:
        before = self.hot_set.keys().get(str(state.channel))
        facts = {"revision": str(state.revision), "previous_revision": str(before or "")}
        await self._own.journal.record(SWITCHED, str(state.channel), **facts)
        try:
            await self.hot_set.pin(state.channel, state.revision, path, manifest.size)
        except DeltaicError as error:
            self._own.journal.note(SWITCH_FAILED, str(state.channel), reason=error.reason, **facts)
            raise
        await self.health.update()
        self._deltas.want(earlier(self._files, manifest)[: self._delta_history], manifest)

    def readiness(self) -> Readiness:
        """Whether requests should come here."""
        return readiness(self._followed, self.hot_set.loaded, draining=self.door.draining, stopping=self._stopping)

    def _line_up(self) -> bool:
        """Whether the center is heard: by the watch, or, where nothing is followed, by the connection."""
        return self._follower.online if self._followed else self._line.up

    def _files_held(self) -> dict[RevisionName, int]:
        names = (RevisionName.parse(revision.name) for revision in self._mirror.revisions())
        return {name: found.size for name in names if (found := self._mirror.manifest(name)) is not None}

    def _gauges(self, line: LineWatch) -> dict[str, float]:
        """Numbers of other parts, for any thread."""
        return {
            "hot_bytes": hot_bytes(self.hot_set),
            "hot_budget_bytes": self.hot_set.budget.ram,
            "loaded_models": len(set(self.hot_set.keys().values())),
            "held_models": len(self._mirror.revisions()),
            "in_flight": self.door.in_flight,
            "serving": self.readiness().serving,
            "draining": self.door.draining,
            "line_up": bool(line.up),
            "devices": self._fleet.devices,
        }

    async def _follow(self, settings: EdgeSettings) -> None:
        gone = await self._follower.change(settings.followed)
        self._followed = settings.followed
        self._coming.follow(self._followed)
        for channel in gone:
            await self.hot_set.unpin(channel)
        await self._follower.tidy()
        self._moved()
        await self.health.update()

    async def _limit(self, settings: EdgeSettings) -> None:
        self._own.limit.change(RateSchedule.parse(settings.fetch_rate))

    async def _resize(self, settings: EdgeSettings) -> None:
        await self.hot_set.resize(settings.hot_bytes)

    async def _log_from(self, settings: EdgeSettings) -> None:
        set_level(settings.log_level)

    async def _use_peers(self, settings: EdgeSettings) -> None:
        self._own.peers.use(settings.peers)

    def _hot_set_changed(self) -> None:
        self._loaded.look()
        self.index.changed()

    def _obtained(self, state: ChannelState) -> None:
        """A revision is complete on disk: neighbours may have it, whether or not it serves here yet."""
        self._mirror.learn([state])

    def _moved(self, state: fleet_pb2.ModelState | None = None) -> None:
        """A channel is in another phase, or an update has come further."""
        if state is not None and state.phase == state.PHASE_READY:
            self._own.counts.updated(state)
        self._mirror.changed()
        self.hot_set.let_go_of_removed()
        self._cache.keep_only(self._revisions_held() | set(self.hot_set.keys().values()))
        self._reporter.changed()
        self.index.changed()

    def _report(self) -> fleet_pb2.NodeReport:
        states = with_loads(self._follower.states(), self._host)
        return own_report(self._node, inference_pb2.NODE_ROLE_EDGE, states, self._statistics.totals())
