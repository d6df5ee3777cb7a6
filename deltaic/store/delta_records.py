"""What a node remembers of one delta: a small file that names its blobs.

    {"format": 1, "source": {D}, "target": {D}, "index": {D}, "packs": [{D}, …], "target_bytes": n, "memory_bytes": n}

D is {"sha256": HEX, "size": n}; `source` and `target` are the manifests of two revisions. A record that does not read
is as good as absent.
"""

import json
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from deltaic.errors import DeltaicError
from deltaic.weights.digest import Digest

_log = structlog.get_logger(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two revisions, by their manifests: a delta goes from the first to the second."""

    source: Digest
    target: Digest

    def __str__(self) -> str:
        return f"{self.source.hex[:12]}-{self.target.hex[:12]}"


@dataclass(frozen=True, slots=True)
class DeltaRecord:
    """One delta. `memory_bytes` is about what making one of its chunks takes."""

    pair: Pair
    index: Digest
    packs: tuple[Digest, ...] = field(repr=False)
    target_bytes: int
    memory_bytes: int

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """Packs first, each digest once: the order in which they are written."""
        return tuple(dict.fromkeys((*self.packs, self.index)))

    @property
    def size(self) -> int:
        """Bytes to fetch for all of it."""
        return sum(digest.size for digest in self.blobs)

    def serialise(self) -> bytes:
        """The content of its file."""
        content = {
            "format": _FORMAT,
            "source": _written(self.pair.source),
            "target": _written(self.pair.target),
            "index": _written(self.index),
            "packs": [_written(pack) for pack in self.packs],
            "target_bytes": self.target_bytes,
            "memory_bytes": self.memory_bytes,
        }
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> "DeltaRecord":
        """Raises ValueError, TypeError, KeyError, BadDigest for what is no record."""
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise ValueError(f"a record of format {content['format']}")
        return cls(
            Pair(_read(content["source"]), _read(content["target"])),
            _read(content["index"]),
            tuple(_read(pack) for pack in content["packs"]),
            int(content["target_bytes"]),
            int(content["memory_bytes"]),
        )


def record_path(folder: Path, pair: Pair) -> Path:
    return folder / "pairs" / f"{pair.source.hex}-{pair.target.hex}.json"


def read_records(folder: Path) -> list[DeltaRecord]:
    """The records whose blobs are all here, by size, the one used longest ago first; the others are deleted.

    Raises OSError.
    """
    found: list[tuple[int, DeltaRecord]] = []
    for path in sorted((folder / "pairs").iterdir()):
        record = _read_record(path)
        if record is None or path != record_path(folder, record.pair) or not _is_whole(folder, record):
            _log.warning("delta.left_over", file=path.name)
            path.unlink()
        else:
            found.append((path.stat().st_mtime_ns, record))
    found.sort(key=lambda each: each[0])
    return [record for _, record in found]


def remove_strangers(folder: Path, known: Container[str]) -> None:
    """Delete every blob whose hex is not known, and unfinished writes. Raises OSError."""
    for path in (folder / "chunks").glob("??/*"):
        if path.name not in known:
            path.unlink()


def _is_whole(folder: Path, record: DeltaRecord) -> bool:
    try:
        return all(
            (folder / "chunks" / digest.hex[:2] / digest.hex).stat().st_size == digest.size for digest in record.blobs
        )
    except OSError:
        return False


def _read_record(path: Path) -> DeltaRecord | None:
    try:
        return DeltaRecord.parse(path.read_bytes())
    except (OSError, ValueError, TypeError, KeyError, DeltaicError):
        return None


def _written(digest: Digest) -> dict[str, Any]:
    return {"sha256": digest.hex, "size": digest.size}


def _read(written: dict[str, Any]) -> Digest:
    return Digest(bytes.fromhex(written["sha256"]), int(written["size"]))
