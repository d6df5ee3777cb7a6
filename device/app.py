"""The wiring of a device: the only place where its parts are made and the only one that opens channels."""

import asyncio
import platform
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog

from deltaic.engine.host import ModelHost
from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.runtime.data_folder import own_data_folder, runtime_folder
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.follow import Follower
from deltaic.v1 import inference_pb2_grpc
from deltaic.weights.manifest import Manifest
from device.answer import Answers, Manner
from device.config import DeviceSettings
from device.decision_log import DecisionLog
from device.inference_servicer import InferenceServicer
from device.reporting import Reporter
from device.uplink import Uplink

_log = structlog.get_logger(__name__)

DECISION_LOG_NAME = "egress.jsonl"


class Device:
    """One device. `async with Device(settings).running() as device` answers until the context ends."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.node = settings.name or f"device@{platform.node()}"
        self.port = 0

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
            bulk = await stack.enter_async_context(_channel(settings.upstream, self.node))
            questions = await stack.enter_async_context(_channel(settings.upstream, self.node))
            host = ModelHost(runtime_folder(folder), settings.engine, self.node, "device", log_level=settings.log_level)
            stack.push_async_callback(host.close)
            decisions = DecisionLog(folder / DECISION_LOG_NAME)
            stack.callback(decisions.close)
            answers = Answers(
                host,
                Uplink(questions, upstream),
                decisions,
                Manner(settings.policy, settings.prefer, settings.patience),
            )
            server = Server(settings.listen)
            server.add(
                inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                InferenceServicer(answers, host),
                "deltaic.v1.InferenceService",
            )
            await stack.enter_async_context(server.running(grace=settings.drain_seconds, serving=False))
            self.port = server.port
            await stack.enter_async_context(self._following(folder, bulk, upstream, host, answers))
            await server.set_serving(True)
            _log.info(
                "device.ready", node=self.node, listen=settings.listen, port=self.port, upstream=settings.upstream
            )
            yield self

    @asynccontextmanager
    async def _following(
        self, folder: Path, channel: grpc.aio.Channel, upstream: str, host: ModelHost, answers: Answers
    ) -> AsyncIterator[None]:
        """Answer with the models of the followed channels, keep them current, and report."""

        async def activate(state: ChannelState, path: Path, _manifest: Manifest) -> None:
            await host.serve(str(state.channel), state.revision, path)

        changed = asyncio.Event()
        follower = Follower(
            [ChannelName.parse(name) for name in self.settings.channels],
            channel,
            await asyncio.to_thread(ModelFiles, folder / "models"),
            activate,
            data_dir=folder,
            upstream_name=upstream,
            on_state=lambda _state: changed.set(),
        )
        reporter = Reporter(
            channel,
            upstream,
            node=self.node,
            every=self.settings.report_seconds,
            changed=changed,
            models=follower.states,
            counts=answers.counts.to_proto,
        )
        await follower.restore()
        async with _beside(follower.follow(), reporter.run()):
            yield


@asynccontextmanager
async def _channel(target: str, node: str) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(target, node=node)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def _beside(*endless: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these until the context ends. One that fails takes the node with it: it must not go on half alive."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in endless]
        try:
            yield
        except Exception as error:  # noqa: BLE001  # raised again below: a group would wrap it
            failure = error
        finally:
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure
