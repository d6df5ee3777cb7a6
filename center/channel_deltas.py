"""Deltas for the nodes that follow a channel: made as soon as it moves, from what it named before to what it names."""

import structlog

from center.catalog import Catalog
from center.errors import NodeStopping
from center.manifests import Manifests
from center.records import Channel, Revision
from center.watch import WatchHub
from deltaic.errors import DeltaicError
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.threads import in_thread
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)


class ChannelDeltas:
    """Watches every channel. `history` is how many of its last revisions deltas are made from."""

    def __init__(
        self, catalog: Catalog, manifests: Manifests, hub: WatchHub, deltas: DeltaService, history: int
    ) -> None:
        self._catalog = catalog
        self._manifests = manifests
        self._hub = hub
        self._deltas = deltas
        self._history = history

    async def run(self) -> None:
        """Until the hub closes, or cancelled. What cannot be made is left out: nodes can always fetch chunks."""
        try:
            with self._hub.watching([]) as watcher:
                async for channel in watcher.states():
                    await self._moved(channel)
        except NodeStopping:
            return

    async def _moved(self, channel: Channel) -> None:
        try:
            earlier = await in_thread(self._catalog.named_before, channel.name, self._history)
            if earlier:
                sources = [await self._manifest(each) for each in earlier]
                self._deltas.want(sources, await self._manifest(channel.revision))
        except DeltaicError as error:
            _log.warning("delta.not_prepared", channel=str(channel.name), error=str(error))

    async def _manifest(self, revision: Revision) -> Manifest:
        return await self._manifests.get(Digest.parse(revision.name.revision, revision.manifest_bytes))
