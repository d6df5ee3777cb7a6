"""The names of a revision's files, and where in them a chunk lies."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deltaic.store.disk import read_up_to
from deltaic.weights.digest import Digest

_HEX = re.compile(r"[0-9a-f]{64}")
_ENDINGS = (".gguf", ".manifest", ".part", ".lock", ".manifest.tmp")


class Place(NamedTuple):
    """Where a blob's bytes are."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class RevisionPaths:
    """All names that one revision may have in a folder of model files."""

    folder: Path
    hex: str

    @property
    def model(self) -> Path:
        """The complete file."""
        return self.folder / f"{self.hex}.gguf"

    @property
    def manifest(self) -> Path:
        return self.folder / f"{self.hex}.manifest"

    @property
    def unfinished_manifest(self) -> Path:
        return self.folder / f"{self.hex}.manifest.tmp"

    @property
    def part(self) -> Path:
        """The growing file."""
        return self.folder / f"{self.hex}.part"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.hex}.lock"


def revisions_named_in(folder: Path) -> list[str]:
    """The revisions (64 hexadecimal digits) that any of our files in the folder is named after, sorted."""
    found: set[str] = set()
    for entry in os.scandir(folder):
        stem, dot, ending = entry.name.partition(".")
        if dot + ending in _ENDINGS and _HEX.fullmatch(stem):
            found.add(stem)
    return sorted(found)


def read_place(place: Place, digest: Digest) -> bytes | None:
    """The verified bytes of a blob at a place; None when they are wrong, unreadable or gone."""
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = read_up_to(descriptor, place.offset, digest.size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data if digest.matches(data) else None


def read_whole(path: Path, digest: Digest) -> bytes | None:
    """The verified bytes of a file that is one blob; None when they are wrong or the disk cannot read them.

    Raises FileNotFoundError, PermissionError and what else keeps a file from being opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != digest.size:
            return None
        data = read_up_to(descriptor, 0, digest.size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        os.close(descriptor)
    return data if digest.matches(data) else None
