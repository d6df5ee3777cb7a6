"""After a crash: from whatever files of a revision exist to a state that has one meaning.

Four files may each exist or not. A revision is complete when its `.manifest` and its `.gguf` are both there and agree;
everything else is either worth finishing (`.part`) or nothing.
"""

from pathlib import Path

import structlog

from deltaic.store.disk import disk_errors, sync_folder
from deltaic.store.places import RevisionPaths
from deltaic.weights.errors import BadManifest
from deltaic.weights.manifest import MAX_MANIFEST_BYTES, Manifest

_log = structlog.get_logger(__name__)


def read_complete(paths: RevisionPaths) -> Manifest | None:
    """The manifest of a complete revision, or None. Changes nothing; bytes of the model are checked when read."""
    try:
        if paths.manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        manifest = Manifest.parse(paths.manifest.read_bytes())
        if manifest.digest.hex != paths.hex or paths.model.stat().st_size != manifest.size:
            return None
    except (OSError, BadManifest):
        return None
    return manifest


def is_settled(paths: RevisionPaths) -> bool:
    """Whether `settle` would find nothing to do, so that nobody need be locked out to ask."""
    if paths.unfinished_manifest.exists():
        return False
    if read_complete(paths) is not None:
        return not paths.part.exists()
    if paths.model.exists() or paths.manifest.exists():
        return False
    return paths.part.exists() or not paths.lock.exists()


def settle(paths: RevisionPaths) -> Manifest | None:
    """Give a revision's files one meaning; its manifest when it is complete. The caller holds its lock.

    A model file without its manifest, or of another size, becomes a `.part`: staging hashes it and keeps what is
    right. Raises DiskFull, DiskFailed.
    """
    manifest = read_complete(paths)
    with disk_errors(paths.folder, lambda: 0):
        changed = _remove(paths.unfinished_manifest)
        if manifest is not None:
            changed |= _remove(paths.part)
        else:
            if paths.model.exists():
                _log.warning("model_file.unsettled", file=paths.model.name, next="staged again")
                paths.model.replace(paths.part)
                changed = True
            changed |= _remove(paths.manifest)
        if changed:
            sync_folder(paths.folder)
    return manifest


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
