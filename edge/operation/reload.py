"""Reading the settings again while the edge runs: what can change changes, the rest is named."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from deltaic.errors import DeltaicError
from edge.config import EdgeSettings
from edge.spool.journal import RELOADED

_log = structlog.get_logger(__name__)

Apply = Callable[[EdgeSettings], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Names of settings that changed."""

    applied: tuple[str, ...]
    need_restart: tuple[str, ...]


class Reload:
    """One at a time. `appliers` has what can change, by the name of its setting."""

    def __init__(
        self,
        present: EdgeSettings,
        read: Callable[[], EdgeSettings],
        appliers: Mapping[str, Apply],
        record: Callable[..., Awaitable[None]],
    ) -> None:
        """`read` reads the settings as at the start; `record` is `Journal.record`."""
        self._present = present
        self._read = read
        self._appliers = appliers
        self._record = record
        self._lock = asyncio.Lock()
        self._changes: dict[str, object] = {}

    async def reload(self) -> Reloaded:
        """Apply what changed. Raises BadSettings, and then nothing has changed."""
        async with self._lock:
            read = await asyncio.to_thread(self._read)
            changed = [name for name in type(read).model_fields if getattr(read, name) != self._now(name)]
            live = tuple(name for name in changed if name in self._appliers)
            if live:
                await self._record(RELOADED, "settings", applied=", ".join(live))
            for name in live:
                await self._appliers[name](read)
                self._changes[name] = getattr(read, name)
            waiting = tuple(name for name in changed if name not in self._appliers)
            _log.info("settings.reloaded", applied=live, need_restart=waiting)
            return Reloaded(live, waiting)

    async def signalled(self) -> None:
        """What SIGHUP does: reload, and say in the log what was wrong."""
        try:
            await self.reload()
        except DeltaicError as error:
            _log.error("settings.not_reloaded", error=error.message, hint=error.hint, effect="the old ones stay")

    def _now(self, name: str) -> object:
        return self._changes.get(name, getattr(self._present, name))
