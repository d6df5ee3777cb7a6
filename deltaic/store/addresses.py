"""From the address of a chunk store, as people write it, to the store."""

import os
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.disk import make_folder
from deltaic.store.errors import BadStoreAddress, DiskFailed

_KNOWN = "write a folder, file:///FOLDER, s3://BUCKET/PREFIX, gs://, az:// or memory://"
_UNFINISHED = re.compile(r"[0-9a-f]{64}#[0-9]+")
_ABANDONED_AFTER_SECONDS = 3600.0


def open_chunk_store(address: str) -> ObjectChunkStore:
    """Open, and for a folder create, the store at `address`.

    An object store takes its credentials and endpoint from its usual environment variables and is not asked anything
    yet. `memory://` is a new, empty store each time. Raises BadStoreAddress, DiskFull.
    """
    scheme, separator, _ = address.partition("://")
    if not address.strip():
        raise BadStoreAddress("the chunk store has no address", hint=_KNOWN)
    if not separator:
        return _open_folder(Path(address))
    if scheme == "file":
        return _open_folder(_folder_of(address))
    if scheme == "memory":
        return ObjectChunkStore(MemoryStore())
    try:
        return ObjectChunkStore(from_url(address))
    except (BaseError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise BadStoreAddress(f"no chunk store at {address}: {first_line}", hint=_KNOWN) from error


def _folder_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise BadStoreAddress(f"not an address of a local folder: {url}", hint="write file:///FOLDER")
    return Path(unquote(parts.path))


def _open_folder(folder: Path) -> ObjectChunkStore:
    folder = folder.expanduser().absolute()
    try:
        make_folder(folder)
    except DiskFailed as error:
        raise BadStoreAddress(f"no chunk store at {folder}: {error.message}", hint=error.hint) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadStoreAddress(f"cannot write in {folder}", hint="check who owns the folder")
    _remove_abandoned(folder / "chunks")
    return ObjectChunkStore(LocalStore(folder))


def _remove_abandoned(chunks: Path) -> None:
    """Delete unfinished writes of processes that died; young ones may belong to a process that lives."""
    before = time.time() - _ABANDONED_AFTER_SECONDS
    for path in chunks.glob("??/*#*"):
        if _UNFINISHED.fullmatch(path.name) and path.lstat().st_mtime < before:
            path.unlink(missing_ok=True)
