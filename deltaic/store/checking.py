"""Hashing the model files of a folder again, also while a node works in it: this module only reads.

A file is believed when every chunk of it is what its manifest says, and the manifest what its name says.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deltaic.store.disk import read_up_to
from deltaic.store.errors import RevisionNotHeld
from deltaic.store.places import RevisionPaths, revisions_named_in
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES, Chunk, Manifest

Progress = Callable[[int, int], None]
"""Called with (bytes hashed, bytes in all); the first never decreases."""


class Health(StrEnum):
    """What a check found."""

    OK = "ok"
    DAMAGED = "damaged"
    """Chunks are wrong, or the file has another size."""
    NO_MANIFEST = "no manifest"
    """The manifest is missing or damaged, so nothing of the file can be believed."""
    UNFINISHED = "unfinished"
    """A growing file, which whoever fetches it hashes anyway."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One revision: what its file has, in bytes and chunks, and which chunks are wrong, in file order."""

    hex: str
    health: Health
    manifest: Manifest | None = None
    size: int = 0
    bad: tuple[Chunk, ...] = ()

    @property
    def is_bad(self) -> bool:
        """Whether it needs repair."""
        return self.health in (Health.DAMAGED, Health.NO_MANIFEST)

    @property
    def bad_bytes(self) -> int:
        return sum(chunk.digest.size for chunk in self.bad)


def check_folder(folder: Path, on_progress: Progress | None = None) -> list[Checked]:
    """Check every revision of a folder of model files, with one chunk in memory. Raises OSError.

    What a node removes meanwhile is left out.
    """
    manifests = {hex_: read_manifest(folder, hex_) for hex_ in revisions_named_in(folder)}
    total = sum(manifest.size for manifest in manifests.values() if manifest)
    before = 0
    checked: list[Checked] = []
    for hex_, manifest in manifests.items():
        base = before

        def advanced(done: int, base: int = base) -> None:
            if on_progress:
                on_progress(base + done, total)

        with suppress(RevisionNotHeld):
            checked.append(check_revision(folder, hex_, manifest, advanced))
        before += manifest.size if manifest else 0
    return checked


def check_revision(
    folder: Path, hex_: str, manifest: Manifest | None, advanced: Callable[[int], None] | None = None
) -> Checked:
    """Check one revision against its manifest; `advanced` gets bytes hashed.

    Raises RevisionNotHeld when no file of it is there, OSError.
    """
    paths = RevisionPaths(folder, hex_)
    with _reading(paths.model) as descriptor:
        if descriptor is None:
            if paths.part.exists():
                return Checked(hex_, Health.UNFINISHED, manifest, paths.part.stat().st_size)
            raise RevisionNotHeld(f"no file of sha256:{hex_} in {folder}", hint="fetch the revision")
        size = os.fstat(descriptor).st_size
        if manifest is None:
            return Checked(hex_, Health.NO_MANIFEST, None, size)
        bad = tuple(_bad_chunks(descriptor, manifest, advanced))
    healthy = not bad and size == manifest.size
    return Checked(hex_, Health.OK if healthy else Health.DAMAGED, manifest, size, bad)


def read_manifest(folder: Path, hex_: str) -> Manifest | None:
    """The manifest of a revision, if its bytes are what the name of the revision says."""
    path = RevisionPaths(folder, hex_).manifest
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        manifest = Manifest.parse(path.read_bytes())
    except (FileNotFoundError, BadManifest):
        return None
    return manifest if manifest.digest.hex == hex_ else None


def _bad_chunks(descriptor: int, manifest: Manifest, advanced: Callable[[int], None] | None) -> Iterator[Chunk]:
    for chunk in manifest.chunks:
        if not _matches(descriptor, chunk):
            yield chunk
        if advanced:
            advanced(chunk.end)


def _matches(descriptor: int, chunk: Chunk) -> bool:
    try:
        return chunk.digest.matches(read_up_to(descriptor, chunk.offset, chunk.digest.size))
    except OSError:  # a sector that cannot be read
        return False


@contextmanager
def _reading(path: Path) -> Iterator[int | None]:
    """One descriptor for the whole check, so that it sees one file whatever a node renames; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
