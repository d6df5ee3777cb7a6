"""Reads a GGUF header field by field and never past the end, whatever a field declares.

Every length is compared with the bytes that remain before anything is read or allocated, so that eight bytes of a
hostile file cannot make us allocate gigabytes or loop for hours.
"""

import struct
from typing import BinaryIO

from deltaic.weights.errors import BadLayout, Truncated

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """A position in a seekable file of `size` bytes. Every method raises Truncated where the file ends too soon."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        source.seek(0)
        self._source = source
        self.size = size
        self.position = 0

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def require(self, count: int, what: str) -> None:
        """Refuse a declared length that cannot fit."""
        if count > self.remaining:
            raise Truncated(
                f"the file ends inside {what}: {count:,} bytes declared, {self.remaining:,} left",
                hint="copy or download the file again",
            )

    def take(self, count: int, what: str) -> bytes:
        self.require(count, what)
        data = self._source.read(count)
        if len(data) != count:
            raise Truncated(f"the file ends inside {what}", hint="was it changed while it was read?")
        self.position += count
        return data

    def skip(self, count: int, what: str) -> None:
        self.require(count, what)
        self.position += count
        self._source.seek(self.position)

    def u32(self, what: str) -> int:
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack(self.take(8, what))[0]
        return value

    def count(self, what: str, *, item_bytes: int, limit: int) -> int:
        """A declared number of items of at least `item_bytes` each. Raises Truncated, BadLayout (over `limit`)."""
        declared = self.u64(what)
        if declared * item_bytes > self.remaining:
            raise Truncated(
                f"the file declares {declared:,} {what} but only {self.remaining:,} bytes follow",
                hint="copy or download the file again",
            )
        if declared > limit:
            raise BadLayout(f"the file declares {declared:,} {what}; at most {limit:,} are accepted")
        return declared

    def name(self, what: str, *, limit: int) -> str:
        """A name of 1 to `limit` bytes that is safe to print. Raises Truncated, BadLayout."""
        length = self.u64(what)
        self.require(length, what)
        if not 1 <= length <= limit:
            raise BadLayout(f"{what} has {length:,} bytes; 1 to {limit:,} are possible")
        raw = self.take(length, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise BadLayout(f"{what} is not UTF-8: {raw[:40]!r}") from None
        if not text.isprintable():
            raise BadLayout(f"{what} has unprintable characters: {text[:40]!r}")
        return text
