"""Where what is expensive to make is kept between clones and runs.

    $DELTAIC_CACHE, else $XDG_CACHE_HOME/deltaic, else ~/.cache/deltaic
    ├── wheels/<key>/*.whl    built by wheel_cache.py
    ├── cpu/<key>.json        what workers found out about CPU code; until the next boot
    └── models/*.gguf         made by fetch_models.py; $DELTAIC_MODELS names another folder

Everything here can be deleted at any time; it is made again when it is needed.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder that holds everything; it need not exist."""
    if chosen := environ.get("DELTAIC_CACHE"):
        return Path(chosen)
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "deltaic"


def models_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the demo models; it need not exist."""
    if chosen := environ.get("DELTAIC_MODELS"):
        return Path(chosen)
    return cache_folder(environ) / "models"


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold `lock` until the end of the block, waiting for another process that has it. The file stays."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def place(made: Path, target: Path) -> None:
    """Move a finished file or folder to where others see it: whole, or not at all, also after a power cut."""
    _sync(made)
    made.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
