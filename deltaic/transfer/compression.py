"""Compression of one range on the wire: when it pays, and undoing it without trusting how far it expands."""

from typing import IO, cast

import zstandard

from deltaic.transfer.errors import BadFrame

PROBE_BYTES = 64 * 1024
PAYS_BELOW = 0.9
SMALLEST_BYTES = 256
_LEVEL = 3
_MAX_WINDOW_BYTES = 8 << 20
_PIECE_BYTES = 256 * 1024


def compress_if_it_pays(data: bytes) -> bytes | None:
    """One zstd frame that holds `data`, or None where the bytes themselves are about as short.

    The first 64 KiB decide: quantised weights hardly shrink and are not worth the time of a second look.
    """
    if len(data) < SMALLEST_BYTES:
        return None
    probe = data[:PROBE_BYTES]
    if len(zstandard.ZstdCompressor(level=1).compress(probe)) > PAYS_BELOW * len(probe):
        return None
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return packed if len(packed) < len(data) else None


class Expander:
    """Undoes one zstd frame that arrives in pieces, and never holds more than `limit` bytes of its content."""

    def __init__(self, limit: int) -> None:
        """`limit` is the size that the digest promises, in bytes."""
        self._limit = limit
        self._produced = 0
        self._out = bytearray()
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._writer = decompressor.stream_writer(cast("IO[bytes]", self), write_size=_PIECE_BYTES, closefd=False)

    def write(self, piece: bytes) -> int:
        """Takes what the decompressor produced. Raises BadFrame as soon as it is more than promised."""
        self._produced += len(piece)
        if self._produced > self._limit:
            raise BadFrame(f"a compressed blob expands beyond the {self._limit} bytes that its digest names")
        self._out += piece
        return len(piece)

    def expand(self, data: bytes) -> bytes:
        """What `data` adds to the content. Raises BadFrame for what is not zstd or expands too far."""
        try:
            self._writer.write(data)
        except zstandard.ZstdError as error:
            raise BadFrame(f"a compressed blob does not decompress: {error}") from None
        out = bytes(self._out)
        self._out.clear()
        return out
