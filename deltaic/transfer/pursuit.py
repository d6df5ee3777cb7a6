"""Keeping one channel current: obtain what it names, switch to it, keep the old on failure, begin again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.names import ChannelName
from deltaic.store.errors import DiskFull
from deltaic.transfer.backoff import Backoff, Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.progress import Account, Pace
from deltaic.transfer.update import Held, Obtainer, UpdateMeter
from deltaic.v1 import fleet_pb2
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

Activate = Callable[[ChannelState, Path, Manifest], Awaitable[None]]
"""Switches the node to a revision. When it raises, what served before must still serve."""

_Phase = fleet_pb2.ModelState.Phase
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
_REPORT_EVERY_SECONDS = 0.25


class Pursuit:
    """One channel. `aim` says where it points, `run` goes after it for ever."""

    def __init__(
        self,
        channel: ChannelName,
        obtainer: Obtainer,
        activate: Activate,
        *,
        on_aim: Callable[[ChannelState], Awaitable[None]],
        on_switched: Callable[[ChannelState], Awaitable[None]],
        on_full_disk: Callable[[], Awaitable[bool]],
        on_state: Callable[[fleet_pb2.ModelState], None],
        retry: Retry,
    ) -> None:
        """`on_aim` and `on_switched` remember what happened, before and after; `on_state` hears of every change.

        `on_full_disk` releases what is not needed, and says whether there was such.
        """
        self.channel = channel
        self._obtainer = obtainer
        self._activate = activate
        self._on_aim = on_aim
        self._on_switched = on_switched
        self._on_full_disk = on_full_disk
        self._on_state = on_state
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS, retry.random)
        self._target: ChannelState | None = None
        self.serving: ChannelState | None = None
        """What was activated last."""
        self._moved = asyncio.Event()
        self._woken = asyncio.Event()
        self._seen = time.monotonic()
        self._reported = 0.0
        self._state = fleet_pb2.ModelState(channel=str(channel))
        self._meter = UpdateMeter(self._advanced)
        self._account = Account()
        self._pace = Pace()

    def state(self) -> fleet_pb2.ModelState:
        """As of now; phase PHASE_UNSPECIFIED before the channel was heard of."""
        progress = self._state.progress
        reached = self._account.add(self._meter.reached)
        progress.full_bytes = reached.full
        progress.reused_bytes = reached.reused
        progress.fetched_bytes = reached.fetched + reached.manifest
        progress.wire_bytes = reached.wire
        progress.delta_bytes = reached.made
        self._pace.observe(reached.wire, time.monotonic())
        fetching = self._state.phase == _Phase.PHASE_FETCHING
        progress.bytes_per_second = self._pace.rate if fetching else 0.0
        progress.seconds_left = self._pace.seconds_for(reached) if fetching else 0.0
        copy = fleet_pb2.ModelState()
        copy.CopyFrom(self._state)
        return copy

    def aim(self, state: ChannelState) -> None:
        """Upstream says where the channel points; the newest word counts."""
        if self._target is None or self._target.revision != state.revision:
            self._seen = time.monotonic()
        if self._target is None or self._target.message != state.message:
            self._target = state
            self._backoff.reset()
            self._moved.set()
        self._woken.set()

    async def restore(self, candidates: list[ChannelState]) -> None:
        """Switch to the first of these whose file is here and whole, without asking anybody."""
        for state in candidates:
            try:
                held = await self._obtainer.held(state)
                if held is None:
                    continue
                self._meter.whole(held.manifest)
                await self._switch(state, held)
            except Exception as error:  # noqa: BLE001  # the next candidate may still serve
                self._failed(state, error)
            else:
                return

    async def run(self) -> None:
        """Go after the channel until cancelled."""
        while True:
            self._moved.clear()
            self._woken.clear()
            target = self._target
            if target is None or (self.serving is not None and self.serving.revision == target.revision):
                await self._settled(target)
                await self._moved.wait()
                continue
            try:
                await self._update(target)
                self._backoff.reset()
            except Exception as error:  # noqa: BLE001  # whatever happens, the old revision serves and we try again
                if not self._moved.is_set():
                    self._failed(target, error)
                    if not (isinstance(error, DiskFull) and await self._on_full_disk()):
                        await self._pause()

    async def _update(self, target: ChannelState) -> None:
        self._begin_attempt(target)
        self._state.target_revision = str(target.revision)
        self._enter(_Phase.PHASE_FETCHING)
        await self._on_aim(target)
        _log.info("update.started", channel=str(self.channel), revision=str(target.revision))
        held = await self._obtain_unless_moved(target)
        if held is None:
            _log.info("update.superseded", channel=str(self.channel), revision=str(target.revision))
            return
        self._state.progress.fetch_seconds = time.monotonic() - self._seen
        await self._switch(target, held)
        self._log_complete(target)

    def _begin_attempt(self, target: ChannelState) -> None:
        """Count on where this update was tried before, from nothing where it is another."""
        self.state()
        again = self._state.target_revision == str(target.revision)
        if again:
            self._account.next_attempt()
        else:
            self._account = Account()
        self._pace = Pace()
        self._meter = UpdateMeter(self._advanced)
        self._state.progress.Clear()

    async def _obtain_unless_moved(self, target: ChannelState) -> Held | None:
        """None when the channel moved on meanwhile: what it named is not wanted any more."""
        obtaining = asyncio.create_task(self._obtainer.obtain(target, self._meter))
        moving = asyncio.create_task(self._moved.wait())
        try:
            await asyncio.wait({obtaining, moving}, return_when=asyncio.FIRST_COMPLETED)
            return obtaining.result() if obtaining.done() else None
        finally:
            obtaining.cancel()
            moving.cancel()
            await asyncio.gather(obtaining, moving, return_exceptions=True)

    async def _switch(self, state: ChannelState, held: Held) -> None:
        self._state.target_revision = str(state.revision)
        self._enter(_Phase.PHASE_LOADING)
        started = time.monotonic()
        await self._activate(state, held.path, held.manifest)
        self._state.progress.switch_seconds = time.monotonic() - started
        self.serving = state
        self._state.serving_revision = str(state.revision)
        await self._on_switched(state)
        self._enter(_Phase.PHASE_READY)

    async def _settled(self, target: ChannelState | None) -> None:
        """The channel points to what serves already, maybe again after a moment elsewhere."""
        if target is None:
            return
        await self._on_aim(target)
        self.serving = target
        if self._state.target_revision != str(target.revision):
            self._forget_the_abandoned(target)
        if self._state.phase != _Phase.PHASE_READY:
            self._enter(_Phase.PHASE_READY)

    def _forget_the_abandoned(self, target: ChannelState) -> None:
        """The numbers of an update that nobody wants any more say nothing of what serves, which is here whole."""
        self._meter = UpdateMeter(self._advanced)
        self._account = Account()
        self._state.progress.Clear()
        self._state.target_revision = str(target.revision)
        if (manifest := self._obtainer.files.manifest(target.revision.hex)) is not None:
            self._meter.whole(manifest)

    async def _pause(self) -> None:
        """Wait before the next attempt, or until upstream is heard again."""
        try:
            async with asyncio.timeout(self._backoff.next_delay()):
                await self._woken.wait()
        except TimeoutError:
            return

    def _failed(self, target: ChannelState, error: Exception) -> None:
        known = isinstance(error, DeltaicError)
        waiting = known and error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]
        facts = {"channel": str(self.channel), "revision": str(target.revision), "error": str(error)}
        if waiting:
            first = self._state.detail != str(error)
            (_log.info if first else _log.debug)("update.waiting", **facts)
        elif known:
            _log.error("update.failed", **facts)
        else:
            _log.exception("update.failed", **facts)
        # Offline is normal: an update that waits for the line has not failed.
        fetching = waiting and self._state.phase == _Phase.PHASE_FETCHING
        self._enter(_Phase.PHASE_FETCHING if fetching else _Phase.PHASE_FAILED, str(error) or type(error).__name__)

    def _enter(self, phase: "fleet_pb2.ModelState.Phase.ValueType", detail: str = "") -> None:
        self._state.phase = phase
        self._state.detail = detail
        self._reported = time.monotonic()
        self._on_state(self.state())

    def _advanced(self) -> None:
        if time.monotonic() - self._reported >= _REPORT_EVERY_SECONDS:
            self._reported = time.monotonic()
            self._on_state(self.state())

    def _log_complete(self, target: ChannelState) -> None:
        progress = self.state().progress
        _log.info(
            "update.complete",
            channel=str(self.channel),
            revision=str(target.revision),
            full_bytes=progress.full_bytes,
            reused_bytes=progress.reused_bytes,
            delta_bytes=progress.delta_bytes,
            fetched_bytes=progress.fetched_bytes,
            wire_bytes=progress.wire_bytes,
            fetch_seconds=round(progress.fetch_seconds, 3),
            switch_seconds=round(progress.switch_seconds, 3),
        )
