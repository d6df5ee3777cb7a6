"""The wiring of a device: the only place where its parts are made and the only one that opens channels."""

import asyncio
import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import structlog
from prometheus_client import generate_latest

from deltaic.engine.host import ModelHost
from deltaic.engine.metrics import metrics_served, registry_of
from deltaic.engine.report import with_loads
from deltaic.gateway.gateway import Limits
from deltaic.gateway.mounting import http_face
from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.reporting import Reporter, own_report
from deltaic.rpc.server import Server
from deltaic.runtime.data_folder import own_data_folder, runtime_folder
from deltaic.runtime.lifetime import beside
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.follow import Follower
from deltaic.transfer.settings import sources_of
from deltaic.transfer.source import Source
from deltaic.transfer.update import USUAL_LIMITS
from deltaic.v1 import fleet_pb2, inference_pb2, inference_pb2_grpc
from deltaic.weights.manifest import Manifest
from device.answer import Answers, Manner
from device.config import DeviceSettings
from device.decision_log import DecisionLog
from device.inference_servicer import DEFAULT_SECONDS, InferenceServicer
from device.uplink import Uplink

_log = structlog.get_logger(__name__)

DECISION_LOG_NAME = "egress.jsonl"


class Device:
    """One device. `async with Device(settings).running() as device` answers until the context ends."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.node = settings.name or f"device@{platform.node()}"
        self.port = self.http_port = self.metrics_port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Device"]:
        """Serve what is held, then follow upstream, which need not be there.

        Raises ListensToNetwork, DataFolderUnusable, PortInUse.
        """
        settings = self.settings
        settings.check_listen()
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(own_data_folder(settings.data_dir, "device"))
            upstream = f"upstream {settings.upstream}"
            # Two connections: a model coming in does not hold up an answer.
            bulk = await stack.enter_async_context(open_channel(settings.upstream, node=self.node))
            questions = await stack.enter_async_context(open_channel(settings.upstream, node=self.node))
            peers = [
                (each, await stack.enter_async_context(open_channel(each, node=self.node))) for each in settings.peers
            ]
            host = ModelHost(
                runtime_folder(folder),
                settings.engine,
                self.node,
                "device",
                log_level=settings.log_level,
                adapters=settings.adapters or folder / "adapters",
            )
            stack.push_async_callback(host.close)
            decisions = DecisionLog(folder / DECISION_LOG_NAME)
            stack.callback(decisions.close)
            manner = Manner(settings.policy, settings.prefer, settings.patience)
            answers = Answers(host, Uplink(questions, upstream), decisions, manner)
            server = await self._listen(stack, host, answers)
            sources = sources_of(bulk, upstream, peers, settings.fetch_rate)
            await stack.enter_async_context(self._following(folder, bulk, sources, host, answers))
            await server.set_serving(True)
            self._say_ready()
            yield self

    async def _listen(self, stack: AsyncExitStack, host: ModelHost, answers: Answers) -> Server:
        """The faces to clients: metrics, gRPC, not serving yet, and HTTP where the settings ask for it."""
        settings, registry = self.settings, registry_of(host)
        self.metrics_port = await stack.enter_async_context(metrics_served(settings.metrics, registry))
        server = Server(settings.listen)
        register = inference_pb2_grpc.add_InferenceServiceServicer_to_server
        server.add(register, InferenceServicer(answers), "deltaic.v1.InferenceService")
        await stack.enter_async_context(server.running(grace=settings.drain_seconds, serving=False))
        self.port = server.port
        self.http_port = await stack.enter_async_context(
            http_face(
                answers,
                settings.http,
                Limits(DEFAULT_SECONDS, settings.http_body_bytes),
                grace=settings.drain_seconds,
                metrics=lambda: generate_latest(registry),
            )
        )
        return server

    def _say_ready(self) -> None:
        _log.info(
            "device.ready",
            node=self.node,
            listen=self.settings.listen,
            port=self.port,
            http_port=self.http_port,
            upstream=self.settings.upstream,
        )

    @asynccontextmanager
    async def _following(
        self, folder: Path, channel: grpc.aio.Channel, sources: Sequence[Source], host: ModelHost, answers: Answers
    ) -> AsyncIterator[None]:
        """Answer with the models of the followed channels, keep them current, and report."""

        async def activate(state: ChannelState, path: Path, _manifest: Manifest) -> None:
            await host.serve(str(state.channel), state.revision, path)

        upstream = sources[0].name
        reporter = Reporter(channel, upstream, every=self.settings.report_seconds)
        follower = Follower(
            [ChannelName.parse(name) for name in self.settings.channels],
            channel,
            await asyncio.to_thread(ModelFiles, folder / "models"),
            activate,
            data_dir=folder,
            upstream_name=upstream,
            on_state=lambda _state: reporter.changed(),
            sources=sources,
            in_flight=self.settings.fetch_streams,
            limits=replace(USUAL_LIMITS, wait_seconds=self.settings.delta_wait),
        )

        def reports() -> list[fleet_pb2.NodeReport]:
            counts = answers.counts.to_proto()
            return [own_report(self.node, inference_pb2.NODE_ROLE_DEVICE, with_loads(follower.states(), host), counts)]

        await follower.restore()
        async with beside(follower.follow(), reporter.run(reports)):
            yield
