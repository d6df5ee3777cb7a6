"""A node that follows a center or an edge without an engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.backoff import Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.follow import Follower
from deltaic.transfer.planning import Limits
from deltaic.transfer.supplier import Supplier
from deltaic.transfer.turns import NoTurns, Turns
from deltaic.v1 import fleet_pb2
from deltaic.weights.manifest import Manifest

STABLE = ChannelName("m", "stable")
PATIENT = Limits(memory_bytes=256 << 20, wait_seconds=60)
QUICK = Retry(failures=4, first_delay=0.01, longest_delay=0.05)


class FollowingNode:
    """A node that keeps one channel current and does nothing with it."""

    def __init__(self, folder: Path, channel: Any, limits: Limits = PATIENT, turns: Turns | None = None) -> None:
        self.files = ModelFiles(folder / "models")
        self.activated: list[str] = []
        self.states: list[fleet_pb2.ModelState] = []
        self.follower = Follower(
            [STABLE],
            channel,
            self.files,
            self._activate,
            data_dir=folder,
            upstream_name="upstream",
            on_state=self.states.append,
            retry=QUICK,
            limits=limits,
            turns=turns,
        )

    async def _activate(self, state: ChannelState, _path: Path, manifest: Manifest) -> None:
        self.activated.append(manifest.revision)

    @property
    def progress(self) -> fleet_pb2.UpdateProgress:
        return self.follower.states()[0].progress

    def content(self, manifest: Manifest) -> bytes:
        path = self.files.path(manifest.digest.hex)
        assert path is not None, "the file is complete"
        return path.read_bytes()

    async def serves(self, manifest: Manifest, seconds: float = 60.0) -> None:
        """Wait until this revision serves."""
        await until(lambda: self.activated[-1:] == [manifest.revision], seconds)
        await until(lambda: self.follower.states()[0].phase == fleet_pb2.ModelState.PHASE_READY)


class Beside(NoTurns):
    """Nodes beside this one that have every revision, once there are any."""

    def __init__(self) -> None:
        self.near: list[Supplier] = []
        self.given_up: list[Supplier] = []

    @asynccontextmanager
    async def turn(self, _state: ChannelState, _wire_bytes: Callable[[], int]) -> AsyncIterator[Sequence[Supplier]]:
        yield [each for each in self.near if each not in self.given_up]

    def failed(self, near: Sequence[Supplier]) -> None:
        self.given_up += near


@asynccontextmanager
async def following(
    folder: Path, address: str, limits: Limits = PATIENT, turns: Turns | None = None
) -> AsyncIterator[FollowingNode]:
    async with open_channel(address, node="edge@test") as channel:
        node = FollowingNode(folder, channel, limits, turns)
        task = asyncio.create_task(node.follower.run())
        try:
            yield node
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def accounts_for(progress: fleet_pb2.UpdateProgress, manifest: Manifest) -> bool:
    """Whether every byte of the file, and of the manifest, was reused, made or fetched."""
    counted = progress.reused_bytes + progress.delta_bytes + progress.fetched_bytes
    return bool(progress.full_bytes == manifest.size and counted == manifest.size + manifest.digest.size)
