"""zstd frames whose content has a known size: nothing is allocated by what a frame says of itself."""

from functools import cache

import zstandard

from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta

LEVEL = 3
PREFIX_LEVEL = 9
"""From here on zstd looks for matches as far back as a whole chunk of the source."""
_MAX_WINDOW_BYTES = 64 << 20


@cache
def _compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


def pack(data: Buffer, level: int = LEVEL) -> bytes:
    """One frame that says the size of its content."""
    return _compressor(level).compress(data)


def pack_below(data: Buffer, limit: int) -> bytes | None:
    """One frame of less than `limit` bytes; None where there is none.

    A frame is hardly ever shorter than that of the first eighth of its content: mostly that is all that is tried.
    """
    if len(pack(memoryview(data)[: len(data) // 8])) >= limit:
        return None
    frame = pack(data)
    return frame if len(frame) < limit else None


def pack_after(data: Buffer, prefix: Buffer, level: int = PREFIX_LEVEL) -> bytes:
    """The same, where whoever expands it has `prefix` in front of it."""
    known = zstandard.ZstdCompressionDict(bytes(prefix), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, dict_size=len(prefix), source_size=len(data), window_log=_window_log(len(prefix) + len(data))
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=known).compress(data)


def expand(frame: Buffer, size: int, prefix: Buffer | None = None) -> bytes:
    """The content of a frame, which must have `size` bytes. Raises BadDelta."""
    known = zstandard.ZstdCompressionDict(bytes(prefix), dict_type=zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
    try:
        if zstandard.frame_content_size(frame) != size:
            raise BadDelta(f"a compressed part does not have the {size:,} bytes that it should have")
        content = zstandard.ZstdDecompressor(dict_data=known, max_window_size=_MAX_WINDOW_BYTES).decompress(
            frame, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BadDelta(f"a compressed part does not decompress: {error}") from None
    if len(content) != size:
        raise BadDelta(f"a compressed part has {len(content):,} bytes instead of {size:,}")
    return content


def _window_log(size: int) -> int:
    return min(27, max(10, size.bit_length()))
