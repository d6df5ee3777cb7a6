"""The hash of a growing file, carried on while it grows, so that little is left to do when the last chunk arrives.

What is hashed are the bytes read back from the file, in file order, each after its chunk was verified and written. A
file that somebody else writes to, cuts or replaces afterwards makes the hash worthless; `PartFile.touched` tells.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence

from deltaic.store.part_file import PartFile
from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Chunk

CHUNKS_AT_ONCE = 2
"""How far one writer carries the hash on: more than it has written, or it would never catch up; not much more, or a
writer would pay for what others have written."""


class RunningHash:
    """SHA-256 over the verified beginning of a file. Memory: one chunk, reused. Safe for many threads."""

    def __init__(self, file: PartFile, chunks: Sequence[Chunk], is_written: Callable[[Digest], bool]) -> None:
        """`chunks` are those of the file, in its order; `is_written` tells whether one is verified and in place."""
        self._file = file
        self._chunks = chunks
        self._is_written = is_written
        self._turn = threading.Lock()
        self._hash = hashlib.sha256()
        self._next = 0
        self._buffer = memoryview(bytearray())

    def advance(self, at_most: int = CHUNKS_AT_ONCE) -> None:
        """Hash the next chunks that are there, unless another thread is at it. Raises OSError, StagingClosed."""
        if self._turn.acquire(blocking=False):
            try:
                self._advance(at_most)
            finally:
                self._turn.release()

    def finish(self) -> bytes:
        """Hash what is left: the SHA-256 of the file, once every chunk is written. Raises OSError, StagingClosed."""
        with self._turn:
            self._advance(len(self._chunks))
            return self._hash.digest()

    def start_over(self) -> None:
        """Forget everything: the file was touched."""
        with self._turn:
            self._hash = hashlib.sha256()
            self._next = 0

    def _advance(self, at_most: int) -> None:
        for chunk in self._chunks[self._next : self._next + at_most]:
            if not self._is_written(chunk.digest):
                return
            if not self._buffer:
                self._buffer = memoryview(bytearray(min(MAX_CHUNK_BYTES, self._file.size)))
            self._hash.update(self._file.read_into(self._buffer[: chunk.digest.size], chunk.offset))
            self._next += 1
