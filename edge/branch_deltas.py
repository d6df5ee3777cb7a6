"""What an edge makes deltas of for its devices: from the files that it holds already to the one that it switched to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deltaic.store.errors import RevisionNotHeld
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.deltas.likeness import look_alike
from deltaic.transfer.deltas.making import FileOf
from deltaic.weights.manifest import Manifest


def file_of(files: ModelFiles) -> FileOf:
    """Files as they rest. One that is removed while a delta is made of it fails that delta, and nothing else."""

    @asynccontextmanager
    async def lease(manifest: Manifest) -> AsyncIterator[Path]:
        path = files.path(manifest.digest.hex)
        if path is None:
            raise RevisionNotHeld(f"{manifest.revision} is no longer held here", hint="nothing to do")
        yield path

    return lease


def earlier(files: ModelFiles, present: Manifest) -> list[Manifest]:
    """What is held beside the present revision and is like it, the file that came last first."""
    held = (files.manifest(hex_) for hex_ in files.newest())
    return [each for each in held if each and each.digest != present.digest and look_alike(each, present)]
