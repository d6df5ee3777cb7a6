"""A digest names bytes for ever: their SHA-256 and their number.

Law 1: a digest that came together with the bytes proves nothing. Take the digest from the manifest, and the manifest's
from whoever you trust; then `verify` what arrived.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from deltaic.weights.errors import BadDigest, DigestMismatch

if TYPE_CHECKING:  # who works with files alone does without protobuf and its memory
    from deltaic.v1 import content_pb2

Buffer: TypeAlias = bytes | bytearray | memoryview

SHA256_BYTES = 32
# A wire field is 64 bits wide; no file system holds a file beyond a signed one.
MAX_SIZE = 2**63 - 1

_TEXT = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """SHA-256 (32 bytes) and size (in bytes) of a blob. Raises BadDigest when built from anything else."""

    sha256: bytes
    size: int

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, bytes) or len(self.sha256) != SHA256_BYTES:
            raise BadDigest(f"a SHA-256 digest has {SHA256_BYTES} bytes, this has {len(self.sha256)}")
        if not 0 <= self.size <= MAX_SIZE:
            raise BadDigest(f"a digest cannot name {self.size} bytes")

    @classmethod
    def of(cls, data: Buffer) -> "Digest":
        """Hash bytes that are in memory."""
        return cls(hashlib.sha256(data).digest(), memoryview(data).nbytes)

    @classmethod
    def of_stream(cls, blocks: Iterable[Buffer]) -> "Digest":
        """Hash the concatenation of blocks, one block in memory at a time."""
        hasher, size = hashlib.sha256(), 0
        for block in blocks:
            hasher.update(block)
            size += memoryview(block).nbytes
        return cls(hasher.digest(), size)

    @classmethod
    def parse(cls, text: str, size: int) -> "Digest":
        """Read `sha256:HEX` (64 lower-case digits). Raises BadDigest."""
        if match := _TEXT.fullmatch(text):
            return cls(bytes.fromhex(match[1]), size)
        raise BadDigest(f"not a digest: {text[:100]!r}", hint="write sha256: and 64 lower-case hexadecimal digits")

    @classmethod
    def from_proto(cls, message: "content_pb2.Digest") -> "Digest":
        """Read a digest that came over a network. Raises BadDigest."""
        return cls(message.sha256, message.size)

    def to_proto(self) -> "content_pb2.Digest":
        from deltaic.v1 import content_pb2

        return content_pb2.Digest(sha256=self.sha256, size=self.size)

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits, without the algorithm's name."""
        return self.sha256.hex()

    def matches(self, data: Buffer) -> bool:
        """Whether these are the bytes that the digest names."""
        return memoryview(data).nbytes == self.size and hashlib.sha256(data).digest() == self.sha256

    def verify(self, data: Buffer) -> None:
        """Raises DigestMismatch unless `data` are the bytes that the digest names."""
        if (size := memoryview(data).nbytes) != self.size:
            raise DigestMismatch(f"{self} names {self.size:,} bytes, got {size:,}", digest=str(self))
        if not self.matches(data):
            raise DigestMismatch(f"{size:,} bytes do not match {self}", digest=str(self))

    def verify_pieces(self, pieces: Sequence[Buffer]) -> None:
        """Raises DigestMismatch unless the pieces, one after the other, are the bytes that the digest names."""
        if len(pieces) == 1:
            self.verify(pieces[0])
        elif (found := Digest.of_stream(pieces)) != self:
            raise DigestMismatch(f"{found.size:,} bytes in pieces do not match {self}", digest=str(self))

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
