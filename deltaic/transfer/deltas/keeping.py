"""A node that serves others keeps the delta that it came by: they want the same one, and it need not be made again."""

import shutil
import tempfile
from pathlib import Path

import structlog

from deltaic.errors import DeltaicError
from deltaic.store.delta_records import DeltaRecord, Pair
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.transfer.deltas.making import memory_of
from deltaic.transfer.planning import Step
from deltaic.transfer.threads import in_thread
from deltaic.weights.delta.index import DeltaIndex
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)


class DeltaKeeper:
    """Puts deltas that arrived on a shelf."""

    def __init__(self, shelf: DeltaShelf) -> None:
        self._shelf = shelf

    def begin(self, step: Step, target: Manifest) -> "KeptDelta | None":
        """For one delta; None when it could not be kept, or is here."""
        if step.source is None or step.target != target.digest or step.fetch_bytes > self._shelf.budget_bytes:
            return None
        pair = Pair(step.source, step.target)
        return KeptDelta(self._shelf, pair, target.size) if self._shelf.find(pair) is None else None


class KeptDelta:
    """The blobs of one delta as they arrive. Whatever goes wrong here is no concern of the update's."""

    def __init__(self, shelf: DeltaShelf, pair: Pair, target_bytes: int) -> None:
        self._shelf = shelf
        self._pair = pair
        self._target_bytes = target_bytes
        self._folder: Path | None = None
        self._kept: set[Digest] = set()
        self._bytes = 0
        self._given_up = False

    async def blob(self, digest: Digest, data: bytes) -> None:
        """An index or a pack has arrived and is verified."""
        self._bytes += len(data)
        if self._given_up or self._bytes > self._shelf.budget_bytes:
            return
        try:
            if self._folder is None:
                self._folder = Path(await in_thread(tempfile.mkdtemp, dir=self._shelf.making))
            await in_thread((self._folder / digest.hex).write_bytes, data)
        except OSError as error:
            _log.warning("delta.not_kept", pair=str(self._pair), error=str(error))
            self._given_up = True
            await self.close()  # at once: on a full disk the update needs the room
        else:
            self._kept.add(digest)

    async def finish(self, index: DeltaIndex) -> None:
        """The update took all that it needed; an update that was resumed did not need all packs, and keeps none."""
        record = DeltaRecord(self._pair, index.digest, index.packs, self._target_bytes, memory_of(index))
        if self._folder is None or self._given_up or not self._kept.issuperset(record.blobs):
            return
        try:
            await self._shelf.add(record, self._folder)
        except (DeltaicError, OSError) as error:
            _log.warning("delta.not_kept", pair=str(self._pair), error=str(error))

    async def close(self) -> None:
        """Remove what was not kept."""
        if self._folder is not None:
            await in_thread(shutil.rmtree, self._folder, ignore_errors=True)
