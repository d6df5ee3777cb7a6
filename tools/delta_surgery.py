"""Takes a delta apart, and puts it together again with whatever somebody wrote into it: nothing is checked on the way.

Follows docs/formats/delta.md on its own, so that what the product reads is compared with a second reading.
"""

import copy
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

import numpy as np
import zstandard

_PREAMBLE = struct.Struct("<4sHHII")
_FIXED = struct.Struct("<32sQ32sQIII")
_PACK_COLUMNS = (("pack_bytes", "<u4"),)
_SEGMENT_COLUMNS = (
    *(("kind", "u1"), ("type", "u1"), ("source_type", "u1"), ("row_elements", "<u4")),
    *(("changed", "<u8"), ("parts", "<u4"), ("name_bytes", "<u2")),
)
_PART_COLUMNS = (
    *(("codec", "u1"), ("made", "<u4"), ("source_offset", "<u8"), ("source_bytes", "<u4")),
    ("payload_bytes", "<u4"),
)
_IN_PACK = (("in_pack", "<u4"),)
COLUMNS = dict((*_PACK_COLUMNS, *_SEGMENT_COLUMNS, *_PART_COLUMNS, *_IN_PACK))
REUSE = 0


@dataclass(slots=True)
class Anatomy:
    """The pieces of a delta, in memory. `columns` has one list of numbers for each name in COLUMNS."""

    source: tuple[bytes, int]
    target: tuple[bytes, int]
    pack_sums: list[bytes]
    columns: dict[str, list[int]]
    names: list[bytes]
    packs: list[bytes]

    def copy(self) -> "Anatomy":
        return copy.deepcopy(self)

    def raw_index(self) -> bytes:
        """The index before it is compressed."""
        counts = (len(self.columns["kind"]), len(self.columns["codec"]), len(self.pack_sums))
        fixed = _FIXED.pack(*self.source, *self.target, *counts)
        columns = [np.array(self.columns[name], np.uint64).astype(kind).tobytes() for name, kind in COLUMNS.items()]
        return b"".join([fixed, *self.pack_sums, *columns, *self.names])

    def payloads(self) -> list[bytes]:
        """The payload of each part; empty for a part that reuses."""
        stream, position, found = b"".join(self.packs), 0, []
        for length in self.columns["payload_bytes"]:
            found.append(stream[position : position + length])
            position += length
        return found

    def put_payloads(self, payloads: Sequence[bytes]) -> None:
        """Other payloads for the parts: lengths, packs and their digests follow."""
        self.columns["payload_bytes"] = [len(each) for each in payloads]
        carried = iter([each for each, codec in zip(payloads, self.columns["codec"], strict=True) if codec != REUSE])
        self.packs = [b"".join(islice(carried, count)) for count in self.columns["in_pack"]]
        self.settle_packs()

    def settle_packs(self) -> None:
        """Make the index say what the packs are."""
        self.pack_sums = [sha256(each).digest() for each in self.packs]
        self.columns["pack_bytes"] = [len(each) for each in self.packs]


def take_apart(index: bytes, packs: Sequence[bytes]) -> Anatomy:
    """The pieces of a delta that is as it should be."""
    raw = zstandard.ZstdDecompressor().decompress(index[_PREAMBLE.size :])
    source, source_size, target, target_size, n_segments, n_parts, n_packs = _FIXED.unpack_from(raw)
    position = _FIXED.size + 32 * n_packs
    sums = [raw[start : start + 32] for start in range(_FIXED.size, position, 32)]
    columns: dict[str, list[int]] = {}
    groups = ((_PACK_COLUMNS, n_packs), (_SEGMENT_COLUMNS, n_segments), (_PART_COLUMNS, n_parts), (_IN_PACK, n_packs))
    for group, count in groups:
        for name, kind in group:
            columns[name] = np.frombuffer(raw, kind, count, position).tolist()
            position += count * np.dtype(kind).itemsize
    names = []
    for length in columns["name_bytes"]:
        names.append(raw[position : position + length])
        position += length
    if position != len(raw):
        raise ValueError("the index is not of the format that this program knows")
    return Anatomy((source, source_size), (target, target_size), sums, columns, names, list(packs))


def wrap(raw_index: bytes) -> bytes:
    """An index from what it holds, with the right lengths in front."""
    packed = zstandard.ZstdCompressor().compress(raw_index)
    return _PREAMBLE.pack(b"DLTI", 1, 0, len(packed), len(raw_index)) + packed
