"""Following channels: the part of an edge or a device that keeps its models current.

On start it serves what it holds, before upstream is asked anything. Then it watches, and for each channel fetches,
commits and switches, while the old revision goes on serving. Offline is a normal state.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import grpc
import structlog

from deltaic.errors import DeltaicError
from deltaic.names import ChannelName
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.backoff import Retry
from deltaic.transfer.channel_book import ChannelBook, ChannelState
from deltaic.transfer.deltas.keeping import DeltaKeeper
from deltaic.transfer.fetch import MOST_STREAMS
from deltaic.transfer.planning import Limits
from deltaic.transfer.pursuit import Activate, Pursuit
from deltaic.transfer.source import GrpcSource, Source
from deltaic.transfer.supplier import Supplier
from deltaic.transfer.threads import in_thread
from deltaic.transfer.turns import Turns
from deltaic.transfer.update import USUAL_LIMITS, Obtainer
from deltaic.transfer.watch import ChannelWatch
from deltaic.v1 import fleet_pb2

_log = structlog.get_logger(__name__)

BOOK_NAME = "channels.json"


class Follower:
    """Follows `channels` of one upstream. Call `restore` once, then `follow` until the node stops; `run` does both."""

    def __init__(
        self,
        channels: Sequence[ChannelName],
        upstream: grpc.aio.Channel,
        files: ModelFiles,
        activate: Activate,
        *,
        data_dir: Path,
        upstream_name: str,
        on_state: Callable[[fleet_pb2.ModelState], None] | None = None,
        sources: Sequence[Source] | None = None,
        keep_previous: bool = True,
        in_flight: int = MOST_STREAMS,
        retry: Retry | None = None,
        limits: Limits = USUAL_LIMITS,
        keeper: DeltaKeeper | None = None,
        turns: Turns | None = None,
    ) -> None:
        """`upstream_name` is for people ("center 10.0.0.1:7400"); chunks come from `sources`, by default upstream, in
        at most `in_flight` streams; deltas from the first of them, which must be upstream.

        `activate` does the blue-green switch and may raise: then the old revision serves on and the switch is tried
        again later. `on_state` is called at every change of phase and a few times a second while bytes arrive; it must
        not raise. `keep_previous` leaves the revision that served before on disk, for a way back. `limits` are what the
        node spends on deltas, `keeper` keeps those that came for others. `turns` are shared with nodes beside it.
        """
        retry = retry or Retry()
        self._files = files
        self._book = ChannelBook(data_dir / BOOK_NAME, channels, keep_previous=keep_previous)
        self._saving = asyncio.Lock()
        sources = sources or [GrpcSource(upstream, upstream_name)]
        self._obtainer = Obtainer(
            files,
            Supplier(upstream, sources[0]),
            sources,
            in_flight=in_flight,
            retry=retry,
            limits=limits,
            keeper=keeper,
            turns=turns,
        )
        self._pursue = partial(
            Pursuit,
            obtainer=self._obtainer,
            activate=activate,
            on_aim=self._aimed,
            on_switched=self._switched,
            on_full_disk=self._make_room,
            on_state=on_state or (lambda _state: None),
            retry=retry,
        )
        self._pursuits = {channel: self._pursue(channel) for channel in channels}
        self._listen = partial(ChannelWatch, upstream, upstream_name, on_channel=self._heard, retry=retry)
        self._watch = self._listen(channels=channels)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[ChannelName | None, asyncio.Task[None]] = {}

    @property
    def online(self) -> bool:
        """Whether upstream has sent something since the line last failed."""
        return self._watch.online

    def states(self) -> list[fleet_pb2.ModelState]:
        """Where each channel is, for a report, in the order given; one that was never heard of is left out."""
        states = [pursuit.state() for pursuit in self._pursuits.values()]
        return [state for state in states if state.phase != fleet_pb2.ModelState.PHASE_UNSPECIFIED]

    def held(self) -> dict[ChannelName, ChannelState]:
        """What serves on each channel; its file is complete here. Channels that serve nothing yet are left out."""
        return {
            channel: pursuit.serving
            for channel, pursuit in self._pursuits.items()
            if pursuit.serving is not None and self._files.path(pursuit.serving.revision.hex) is not None
        }

    async def run(self) -> None:
        """Restore, then follow until cancelled."""
        await self.restore()
        await self.follow()

    async def restore(self) -> None:
        """Activate what was served before and is still whole on disk. Needs no network; returns when that serves."""
        await in_thread(self._book.load)
        for channel, pursuit in self._pursuits.items():
            record = self._book.records[channel]
            await pursuit.restore(record.proven())
            if record.target is not None:
                # Its file may be complete already, and then the switch to it needs no upstream.
                pursuit.aim(record.target)

    async def follow(self) -> None:
        """Keep every channel current until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(asyncio.Event().wait())  # a group that is empty for a moment takes no more tasks
            self._tasks[None] = self._group.create_task(self._watch.run())
            for channel, pursuit in self._pursuits.items():
                self._tasks[channel] = self._group.create_task(pursuit.run())

    async def change(self, channels: Sequence[ChannelName]) -> list[ChannelName]:
        """Follow these from now on; those that are followed no longer. Call it while `follow` runs.

        The files of channels that go stay until `tidy`, unless another channel needs them.
        """
        assert self._group is not None, "follow runs"
        gone = [channel for channel in self._pursuits if channel not in channels]
        for channel in (None, *gone):
            task = self._tasks.pop(channel)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for channel in gone:
            del self._pursuits[channel]
        new = [channel for channel in channels if channel not in self._pursuits]
        self._book.follow(channels)
        for channel in new:
            self._pursuits[channel] = self._pursue(channel)
            self._tasks[channel] = self._group.create_task(self._pursuits[channel].run())
        online, self._watch = self._watch.online, self._listen(channels=channels)
        self._watch.online = online
        self._tasks[None] = self._group.create_task(self._watch.run())
        await self._save()
        return gone

    async def tidy(self) -> None:
        """Remove the files of channels that are followed no longer."""
        await self._remove_unneeded()

    def _heard(self, state: ChannelState) -> None:
        if state.channel in self._pursuits:
            self._pursuits[state.channel].aim(state)

    async def _aimed(self, state: ChannelState) -> None:
        self._book.aim(state)
        await self._save()

    async def _switched(self, state: ChannelState) -> None:
        self._book.switched(state)
        await self._save()
        await self._remove_unneeded()

    async def _make_room(self) -> bool:
        """The disk is full: let go of what no channel serves or wants. Whether something went."""
        serving = [pursuit.serving.revision for pursuit in self._pursuits.values() if pursuit.serving is not None]
        self._book.give_up_previous(serving)
        removed = await self._remove_unneeded()
        if removed:
            _log.warning("follow.made_room", hint="the disk is full: the way back to earlier revisions was given up")
        return removed

    async def _save(self) -> None:
        """A book that cannot be written (a full disk) stops no update; it is tried again with the next change."""
        async with self._saving:
            try:
                await in_thread(self._book.save, self._book.serialise())
            except (OSError, DeltaicError) as error:
                _log.error(
                    "channels.not_saved", error=str(error), hint="after a restart the node may serve an older revision"
                )

    async def _remove_unneeded(self) -> bool:
        """Whether files went."""
        removed = False
        for revision_hex in self._book.unneeded():
            if revision_hex not in self._book.unneeded():
                continue  # while another one was removed, a channel turned back to it
            try:
                await in_thread(self._files.remove, revision_hex)
            except DeltaicError as error:
                _log.warning("follow.not_removed", revision=f"sha256:{revision_hex}", error=error.message)
                continue
            self._book.forget(revision_hex)
            self._obtainer.removed(revision_hex)
            removed = True
            _log.info("follow.removed", revision=f"sha256:{revision_hex}")
        if removed:
            await self._save()
        return removed
