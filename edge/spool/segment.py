r"""One file of the spool: entries one after the other, each with its length and checksum.

    SEGMENT   "deltaic.spool.1\n"    16 bytes
              name of the spool      16 bytes (a UUID)
              RECORD*
    RECORD    "DLse"  length (u32)  CRC-32 of the payload (u32)  payload: a deltaic.v1.SpooledEntry      big-endian

A process that dies in a write leaves half a record at the end: it is cut off. A record that rotted is passed over, and
the numbers of those after it show that it is missing.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from deltaic.v1 import audit_pb2

MAGIC = b"deltaic.spool.1\n"
HEADER_BYTES = len(MAGIC) + 16
MAX_PAYLOAD = 16_384
_MARK = b"DLse"
_HEAD = struct.Struct(">4sII")


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, and where its record ends in the file."""

    entry: audit_pb2.SpooledEntry
    end: int


def record_of(entry: audit_pb2.SpooledEntry) -> bytes:
    """The bytes of one entry in a segment."""
    payload = entry.SerializeToString()
    return _HEAD.pack(_MARK, len(payload), zlib.crc32(payload)) + payload


def path_of(folder: Path, first: int) -> Path:
    """Where the segment whose first entry has this sequence rests."""
    return folder / f"{first:020d}.log"


def first_of(path: Path) -> int:
    """The sequence that a segment begins with."""
    return int(path.stem)


def segments_in(folder: Path) -> list[Path]:
    """In the order of their entries."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdigit())


def name_in(data: bytes) -> bytes | None:
    """The spool that a segment belongs to; None when even its header is damaged."""
    return data[len(MAGIC) : HEADER_BYTES] if data.startswith(MAGIC) and len(data) >= HEADER_BYTES else None


def entries_in(data: bytes, offset: int = HEADER_BYTES) -> Iterator[Found]:
    """Every whole entry from `offset` on; what is damaged is passed over."""
    while (start := data.find(_MARK, offset)) >= 0:
        found = _entry_at(data, start)
        if found is None:
            offset = start + 1
            continue
        yield found
        offset = found.end


def _entry_at(data: bytes, start: int) -> Found | None:
    if start + _HEAD.size > len(data):
        return None
    _, length, checksum = _HEAD.unpack_from(data, start)
    end = start + _HEAD.size + length
    payload = data[start + _HEAD.size : end]
    if length > MAX_PAYLOAD or len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    try:
        return Found(audit_pb2.SpooledEntry.FromString(payload), end)
    except DecodeError:
        return None
