"""Whether a file is in the page cache, asked without reading it from the disk."""

import os
from pathlib import Path

_PLACES = 32
_PAGE = 4096


def cached_share(path: Path) -> float:
    """Share of some places of the file whose bytes are in memory; 0.0 where the system does not say."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        size = os.fstat(descriptor).st_size
        places = [size * place // _PLACES for place in range(_PLACES)] if size else []
        return sum(_is_cached(descriptor, place) for place in places) / max(1, len(places))
    except OSError:
        return 0.0
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int, offset: int) -> bool:
    """RWF_NOWAIT gives what is in memory and reads nothing; the kernel may begin to read ahead."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset - offset % _PAGE, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
