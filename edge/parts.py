"""The parts of an edge and what they tell each other: the only place where they are made."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from deltaic.engine.placement.gpus import NvmlGpus
from deltaic.engine.report import with_loads
from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.reporting import Reporter, own_report
from deltaic.rpc.server import Server
from deltaic.runtime.lifetime import beside
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
from deltaic.transfer.source import Source
from deltaic.transfer.update import USUAL_LIMITS
from deltaic.v1 import content_pb2_grpc, fleet_pb2, fleet_pb2_grpc, inference_pb2, inference_pb2_grpc, registry_pb2_grpc
from deltaic.weights.manifest import Manifest
from edge.answer import Answers
from edge.branch.branch import Branch
from edge.branch.ways import Here, Policy
from edge.branch_deltas import earlier
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
from edge.spool.journal import STOPPED, SWITCH_FAILED, SWITCHED, Journal
from edge.spool.tally import Tally
from edge.statistics import RequestStatistics
from edge.tags import TAGS_NAME, TagBook

_INFERENCE = "deltaic.v1.InferenceService"
_CONTENT = "deltaic.v1.ContentService"
_REGISTRY = "deltaic.v1.RegistryService"
_FLEET = "deltaic.v1.FleetService"


@dataclass(frozen=True, slots=True)
class Own:
    """What an edge has before its parts: names, what it keeps on disk, its lines to others, its worker processes."""

    node: str
    index_url: str
    folder: Path
    files: ModelFiles
    host: CountedHost
    bulk: grpc.aio.Channel
    calls: grpc.aio.Channel
    sources: Sequence[Source]
    deltas: DeltaService
    journal: Journal
    counts: Counts
    limit: RateLimit
    peers: PeerSources


class Parts:
    """All parts of a running edge, and what they tell each other."""

    def __init__(self, settings: EdgeSettings, own: Own) -> None:
        self._own, self._settings, self._stopping = own, settings, False
        self._followed = settings.followed
        self._center = f"center {settings.center}"
        self._statistics = RequestStatistics()
        self._prefixes, self._secret = PrefixBook(), IndexSecret(settings.index_secret)
        self.server = Server(settings.listen)
        self._join_branch(settings)
        self._hold(settings)
        self._follow_center(settings)
        self._answer(settings)
        self._operate(settings)
        self._register()

    def _join_branch(self, settings: EdgeSettings) -> None:
        """The index and the neighbours that it shows."""
        node, own = self._own.node, self._own
        self.index = RedisIndex(
            IndexServer(own.index_url, settings.index_ca, embedded=not settings.index_url),
            Keys(settings.branch, node),
            self._statistics,
            secret=self._secret,
            answers=answer_bounds(settings),
        )
        self.branch = Branch(
            self.index,
            lambda address: open_channel(address, node=node),
            lambda: own.peers.addresses,
            self._address,
            hedge_share=settings.hedge_share,
        )

    def _hold(self, settings: EdgeSettings) -> None:
        """The models in memory."""
        gpus = NvmlGpus().gpus()
        self.hot_set = HotSet(
            self._own.host,
            self._own.files,
            settings.hot_bytes,
            vram_budget=vram_budget(settings.hot_vram_bytes, gpus),
            needs=Needs(settings.engine, settings.adapters or self._own.folder / "adapters", gpus),
            patience=Patience(
                settings.hot_residency_seconds,
                settings.hot_collate_seconds,
                settings.hot_wait_seconds,
                settings.engine.slots + settings.engine.queue,
            ),
            kept=lambda: frozenset(each for each in settings.pinned if self._mirror.held(each)),
            on_change=self._hot_set_changed,
        )
        self._loaded = LoadedWatch(self.hot_set.keys, self._own.counts, self._own.journal.note)

    def _follow_center(self, settings: EdgeSettings) -> None:
        """What comes from the center, and what it is told."""
        own = self._own
        self._follower = Follower(
            self._followed,
            own.bulk,
            own.files,
            self._activate,
            data_dir=own.folder,
            upstream_name=self._center,
            on_state=self._moved,
            sources=own.sources,
            in_flight=settings.fetch_streams,
            limits=replace(USUAL_LIMITS, wait_seconds=settings.delta_wait),
            keeper=DeltaKeeper(own.deltas.shelf) if settings.deltas_bytes else None,
            turns=self.branch.turns(own.peers.source, self._obtained),
        )
        self._mirror = Mirror(own.files, self._follower.held)
        self.tags = TagBook(own.calls, self._center, own.folder / TAGS_NAME)
        self._reporter = Reporter(own.calls, self._center, every=settings.report_seconds)
        self._fleet = Fleet(own.node, self._report, self._reporter.changed)
        self._coming = Coming(self._followed, self._follower.states, lambda: self._follower.online)
        self._line = CenterLine(own.calls, self._center, self._coming)
        self._delivery = Delivery(own.calls, self._center, own.node, own.journal, random.random)

    def _answer(self, settings: EdgeSettings) -> None:
        """From a request at the door to whoever answers it."""
        here = Here(self.hot_set.loaded, self._revision_of, self._coming, self._shown, self._load_seconds)
        policy = Policy(frozenset(settings.no_escalation))
        ways = self.branch.ways(here, lambda: self._line.up, policy, self._secret)
        places = Places(self.hot_set, self.branch.lines, self._line)
        answers = Answers(ways, self.branch.trying, places, self.hot_set.serving, self.index, self._statistics)
        self._cache = ResponseCache(cache_settings(settings, self._own.node), self.index, self._secret)
        noted = NotedAnswers(
            self._own.node,
            answers,
            self._cache,
            self._revision_of,
            self.index,
            self._prefixes,
            self._secret,
            self._statistics,
        )
        self._tally = Tally(self._own.journal.note)
        self.door = Door(noted, self._own.node, self._own.counts, self._tally)
        self.answers = NamedAnswers(self.door, self.tags, self._is_channel)

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
            upstream=self._center,
            address=settings.center,
            started=time.time(),
        )
        self.desk = Desk(
            self.door, self.health, own.journal, reload, lambda: status_of(parts), lambda: watch.look(self._line_up())
        )
        self.collector = EdgeCollector(
            own.counts, own.journal.spool, lambda: self._gauges(watch), lambda: self.index.errors
        )

    def _register(self) -> None:
        add = self.server.add
        inference = InferenceServicer(self.answers, self._settings.request_seconds)
        content = ContentServicer(ReadersInTurn(self._own.deltas.shelf, self._own.files), None)
        registry = MirrorServicer(self._mirror, self._own.deltas, self._settings.center)
        add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, inference, _INFERENCE)
        add(content_pb2_grpc.add_ContentServiceServicer_to_server, content, _CONTENT)
        add(registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry, _REGISTRY)
        add(fleet_pb2_grpc.add_FleetServiceServicer_to_server, FleetServicer(self._fleet, self.desk), _FLEET)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Serve what is held, keep it current, and report, until the context ends."""
        await self.server.set_serving(True, [_CONTENT, _REGISTRY, _FLEET])
        book = ChannelBook(self._own.folder / BOOK_NAME, self._followed)
        await asyncio.to_thread(book.load)
        await asyncio.to_thread(self.tags.load)
        for record in book.records.values():
            self._mirror.learn(record.states())
        await self.health.update()
        await self._follower.restore()
        async with (
            tended(self.hot_set, self._own.folder, self._settings.hot_prefetch_seconds),
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
                await self._own.journal.record(STOPPED, f"nodes/{self._own.node}")
                self._mirror.close()
                self._own.deltas.maker.stop_waiting()

    def entry(self) -> NodeEntry:
        """What the index shows of this edge."""
        revisions = self._revisions_held() | set(self.hot_set.keys().values())
        return NodeEntry(self._address(), {revision: self._shown(revision) for revision in revisions})

    def _shown(self, revision: RevisionName) -> RevisionEntry:
        """What this edge has of one revision."""
        workers = {worker.spec.revision: worker for worker in self._own.host.workers()}
        return shown(
            held=self._mirror.manifest(revision) is not None,
            keys=tuple(sorted(key for key, answers in self.hot_set.keys().items() if answers == revision)),
            leases=self.hot_set.leases().get(revision, 0),
            beat=workers[revision].pulse.last if revision in workers else None,
            prefixes=self._prefixes.of(revision),
        )

    def _address(self) -> str:
        """Where neighbours reach this edge."""
        return advertised(self._settings.advertise, self._settings.listen, self.server.port)

    def _load_seconds(self, revision: RevisionName) -> float:
        manifest = self._own.files.manifest(revision.hex)
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
        self._own.deltas.want(earlier(self._own.files, manifest)[: self._settings.delta_history], manifest)

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
        states = with_loads(self._follower.states(), self._own.host)
        return own_report(self._own.node, inference_pb2.NODE_ROLE_EDGE, states, self._statistics.totals())
