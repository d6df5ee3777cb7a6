"""What this edge shows its devices of the registry: only what they can fetch from here.

A channel is shown with the revision that this edge serves on it, whose file is complete here; while a newer one comes
in, or fails to load, devices see the old one. A revision is shown while its file is complete here.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.channel_book import ChannelState
from deltaic.v1 import registry_pb2
from deltaic.weights.manifest import Manifest
from edge.errors import EdgeStopping, NotHeldHere
from edge.route import Target


class Mirror:
    """Derived from the follower and the files. Lives on the event loop: all methods are called there."""

    def __init__(self, files: ModelFiles, held: Callable[[], Mapping[ChannelName, ChannelState]]) -> None:
        """`held` gives the states whose files are complete here, as `Follower.held` does."""
        self._files = files
        self._held = held
        self._revisions: dict[RevisionName, registry_pb2.Revision] = {}
        self._watchers: set[asyncio.Event] = set()
        self._closed = False

    def learn(self, states: Iterable[ChannelState]) -> None:
        """Remember what the revisions of these states are called; files know their digests only."""
        for state in states:
            self._revisions[state.revision] = state.message.revision

    def changed(self) -> None:
        """A channel may be elsewhere now: tell the watchers."""
        self.learn(self._held().values())
        for watcher in self._watchers:
            watcher.set()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watcher in self._watchers:
            watcher.set()

    def channel(self, name: ChannelName) -> registry_pb2.Channel:
        """Raises NotHeldHere."""
        state = self._held().get(name)
        if state is None:
            raise NotHeldHere(
                f"no {name} at this edge", hint="it shows the channels that it follows, once their files are complete"
            )
        return state.message

    def channels(self, model: ModelName | None = None) -> list[registry_pb2.Channel]:
        """All of one model, or of all models."""
        return [state.message for name, state in self._held().items() if model in (None, name.of_model)]

    def revision(self, name: RevisionName) -> registry_pb2.Revision:
        """Raises NotHeldHere."""
        if name not in self._revisions or self._files.manifest(name.hex) is None:
            raise NotHeldHere(f"no {name} at this edge", hint="ask the center for it")
        return self._revisions[name]

    def revisions(self, model: ModelName | None = None) -> list[registry_pb2.Revision]:
        """The complete ones, of one model or of all."""
        return [
            revision
            for name, revision in self._revisions.items()
            if model in (None, name.of_model) and self._files.manifest(name.hex) is not None
        ]

    def manifest(self, name: RevisionName) -> Manifest | None:
        """The manifest of a complete revision."""
        return self._files.manifest(name.hex) if name in self._revisions else None

    def manifest_of_any(self, hex_: str) -> Manifest | None:
        """The manifest of a complete revision, whatever its model."""
        return self._files.manifest(hex_)

    def held(self, target: Target) -> RevisionName | None:
        """Which complete revision a request for `target` means."""
        if isinstance(target, ChannelName):
            state = self._held().get(target)
            return state.revision if state else None
        return target if self.manifest(target) is not None else None

    async def watch(self, names: frozenset[ChannelName]) -> AsyncGenerator[registry_pb2.Channel, None]:
        """The present state of the channels (all, when none is named), then every change. Raises EdgeStopping."""
        seen: dict[ChannelName, ChannelState] = {}
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            while True:
                event.clear()
                if self._closed:
                    raise EdgeStopping("this edge is stopping", hint="watch again in a moment")
                for name, state in sorted(self._held().items()):
                    if (not names or name in names) and seen.get(name) != state:
                        seen[name] = state
                        yield state.message
                await event.wait()
        finally:
            self._watchers.discard(event)
