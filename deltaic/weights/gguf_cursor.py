"""Reads a GGUF header field by field and never past the end, whatever a field declares.

Every length is compared with the bytes that remain before anything is read or allocated, so that eight bytes of a
hostile file cannot make us allocate gigabytes or loop for hours.
"""

import struct
from typing import BinaryIO

from deltaic.weights.errors import BadLayout, Truncated

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_LOOK_BYTES = 1 << 18


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

    def skip_strings(self, count: int, what: str) -> None:
        """Skip strings, each after its length in 8 bytes; a vocabulary has 100,000 of them and more."""
        start, block = self.position, b""
        position = start
        for _ in range(count):
            if position + 8 > start + len(block):
                start, block = position, self._look(position, what)
            length = _U64.unpack_from(block, position - start)[0]
            position += 8
            if length > self.size - position:
                self.position = position
                self.require(length, what)
            position += length
        self.skip(position - self.position, what)

    def _look(self, position: int, what: str) -> bytes:
        """Some bytes from `position` on, at least 8."""
        self.skip(position - self.position, what)
        block = self.take(min(max(self.remaining, 8), _LOOK_BYTES), what)
        self.position = position
        return block

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
