"""Compression of one range on the wire: when it pays, and undoing it without trusting how far it expands."""

from typing import IO, cast

import zstandard

from deltaic.transfer.errors import BadFrame

PROBE_BYTES = 64 * 1024
PROBES = 16
PAYS_BELOW = 0.9
SMALLEST_BYTES = 256
_LEVEL = 3
_MAX_WINDOW_BYTES = 8 << 20
_PIECE_BYTES = 256 * 1024

_OUTRUNS_BYTES_A_SECOND = 96 << 20
_ENOUGH_BYTES = 1 << 20
_REMEMBERED_BYTES = 64 << 20


def compress_if_it_pays(data: bytes) -> bytes | None:
    """One zstd frame that holds `data`, or None where the bytes themselves are about as short.

    64 KiB in all, from sixteen places, decide: quantised weights hardly shrink and are not worth the time of a second
    look, and the beginning of a blob need not be like the rest of it.
    """
    if len(data) < SMALLEST_BYTES:
        return None
    probe = _probe(data)
    if len(zstandard.ZstdCompressor(level=1).compress(probe)) > PAYS_BELOW * len(probe):
        return None
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return packed if len(packed) <= PAYS_BELOW * len(data) else None


def _probe(data: bytes) -> bytes:
    """All of short data; else its beginning, its end and what lies evenly between."""
    if len(data) <= PROBE_BYTES:
        return data
    length = PROBE_BYTES // PROBES
    starts = (index * (len(data) - length) // (PROBES - 1) for index in range(PROBES))
    return b"".join(data[start : start + length] for start in starts)


class LineSpeed:
    """How fast the frames of a source come, to know whether compression would only hold them up.

    A core compresses 100 to 300 MB a second: on a line that carries more, sending the bytes themselves is faster.
    What counts is the time in which anybody waits: streams that wait together share the line. Times in seconds.
    """

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0
        self._waiting = 0
        self._counted_to = 0.0

    def waits(self, now: float) -> None:
        """One more stream waits for its next frame."""
        self._count(now)
        self._waiting += 1

    def comes(self, count: int, now: float) -> None:
        """A frame of so many bytes came for one that waited; 0 when it waits no longer."""
        self._count(now)
        self._waiting -= 1
        if self._bytes > _REMEMBERED_BYTES:
            self._bytes, self._seconds = self._bytes / 2, self._seconds / 2
        self._bytes += count

    def _count(self, now: float) -> None:
        if self._waiting:
            self._seconds += now - self._counted_to
        self._counted_to = now

    @property
    def outruns_zstd(self) -> bool:
        """False until enough has come to tell."""
        return self._bytes >= _ENOUGH_BYTES and self._bytes > _OUTRUNS_BYTES_A_SECOND * self._seconds


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
