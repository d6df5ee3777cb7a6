"""What a chunk store holds, one blob after the other, however many there are.

A folder is read by its 256 folders, without following links; an object store by its own listing. Whatever has another
name than a blob has is somebody else's and is passed over.
"""

import os
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from stat import S_ISREG

from obstore.store import ObjectStore

from deltaic.runtime.threads import in_thread
from deltaic.weights.digest import Digest

_BATCH = 1_000
_HASH = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"chunks/([0-9a-f]{2})/(\1[0-9a-f]{62})")


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """An object with the name of a blob. Its bytes were not looked at, so the size of `digest` is the object's."""

    digest: Digest
    modified: float
    """Seconds since 1970: when it was written, or claimed last."""


async def list_folder(chunks: Path) -> AsyncGenerator[StoredBlob, None]:
    """The blobs in the folder `chunks` of a store. Memory: a thousand entries. Raises OSError."""
    batches = _batches(chunks)
    try:
        while batch := await in_thread(next, batches, None):
            for blob in batch.blobs:
                yield blob
    finally:
        batches.close()


async def list_objects(store: ObjectStore) -> AsyncGenerator[StoredBlob, None]:
    """The blobs in an object store. Memory: a thousand entries. Raises what obstore raises."""
    async for batch in store.list("chunks/", chunk_size=_BATCH):
        for found in batch:
            if match := _KEY.fullmatch(found["path"]):
                digest = Digest(bytes.fromhex(match[2]), found["size"])
                yield StoredBlob(digest, found["last_modified"].timestamp())


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some entries of a folder; perhaps none of them a blob."""

    blobs: list[StoredBlob]


def _batches(chunks: Path) -> Generator[_Batch, None, None]:
    for number in range(256):
        prefix = f"{number:02x}"
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(chunks / prefix) as entries:
            while batch := list(islice(entries, _BATCH)):
                yield _Batch([blob for entry in batch if (blob := _blob(entry, prefix))])


def _blob(entry: "os.DirEntry[str]", prefix: str) -> StoredBlob | None:
    if not (_HASH.fullmatch(entry.name) and entry.name.startswith(prefix)):
        return None
    try:
        facts = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # deleted since the folder was read
        return None
    if not S_ISREG(facts.st_mode):
        return None
    return StoredBlob(Digest(bytes.fromhex(entry.name), facts.st_size), facts.st_mtime)
