"""The chained log of decisions: canonical form, link, verify. Pure; where entries rest is the service's affair.

Every entry names the hash of the one before, so changing, removing or inserting one breaks all hashes after it. The
canonical form is specified in `docs/formats/audit.md`; an auditor can check a log with that page and SHA-256 alone.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from deltaic.errors import InvalidArgument
from deltaic.trust.errors import ChainBroken
from deltaic.v1 import audit_pb2

FIRST_PREVIOUS_HASH = bytes(32)
_DOMAIN = b"deltaic.audit.v1\n"
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision. `time_us` is in microseconds since 1970-01-01 UTC; the hashes have 32 bytes."""

    sequence: int
    time_us: int
    actor: str
    action: str
    resource: str
    details: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    previous_hash: bytes = FIRST_PREVIOUS_HASH
    hash: bytes = b""

    @classmethod
    def from_proto(cls, message: audit_pb2.AuditEntry) -> "AuditEntry":
        """Take an entry as it came. Raises InvalidArgument when its time is finer than a microsecond."""
        if message.time.nanos % 1_000:
            raise InvalidArgument(f"audit entry {message.sequence} has a time finer than a microsecond")
        return cls(
            sequence=message.sequence,
            time_us=message.time.seconds * _MICROSECONDS + message.time.nanos // 1_000,
            actor=message.actor,
            action=message.action,
            resource=message.resource,
            details=MappingProxyType(dict(message.details)),
            previous_hash=message.previous_hash,
            hash=message.hash,
        )

    def to_proto(self) -> audit_pb2.AuditEntry:
        message = audit_pb2.AuditEntry(
            sequence=self.sequence,
            actor=self.actor,
            action=self.action,
            resource=self.resource,
            details=self.details,
            previous_hash=self.previous_hash,
            hash=self.hash,
        )
        message.time.FromMicroseconds(self.time_us)
        return message


def canonical(entry: AuditEntry) -> bytes:
    """The bytes that are hashed: every field but the hash, with lengths in front, so that no two entries share them."""
    details = sorted((key.encode(), value.encode()) for key, value in entry.details.items())
    parts = [_DOMAIN, struct.pack(">Qq", entry.sequence, entry.time_us)]
    parts += [_sized(text.encode()) for text in (entry.actor, entry.action, entry.resource)]
    parts.append(struct.pack(">I", len(details)))
    parts += [_sized(key) + _sized(value) for key, value in details]
    parts.append(_sized(entry.previous_hash))
    return b"".join(parts)


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def link(
    previous_sequence: int,
    previous_hash: bytes,
    *,
    time_us: int,
    actor: str,
    action: str,
    resource: str,
    details: Mapping[str, str],
) -> AuditEntry:
    """The entry that follows the head given; (0, FIRST_PREVIOUS_HASH) is the head of an empty log."""
    entry = AuditEntry(
        sequence=previous_sequence + 1,
        time_us=time_us,
        actor=actor,
        action=action,
        resource=resource,
        details=MappingProxyType(dict(details)),
        previous_hash=previous_hash,
    )
    return replace(entry, hash=hashlib.sha256(canonical(entry)).digest())


def verify(chain: Iterable[AuditEntry]) -> int:
    """Check a run of entries, oldest first; the number checked. The run may start anywhere in the log.

    Raises ChainBroken at the first entry whose hash, number or predecessor is not what it must be.
    """
    before: AuditEntry | None = None
    count = 0
    for entry in chain:
        if not _hash_matches(entry):
            raise _broken(entry, "was changed: its hash does not match its content")
        if before is None and entry.sequence == 1 and entry.previous_hash != FIRST_PREVIOUS_HASH:
            raise _broken(entry, "is the first, yet names a predecessor")
        if before is not None and entry.sequence != before.sequence + 1:
            raise _broken(entry, f"does not follow entry {before.sequence}")
        if before is not None and entry.previous_hash != before.hash:
            raise _broken(entry, f"names another hash than that of entry {before.sequence}")
        before = entry
        count += 1
    return count


def _hash_matches(entry: AuditEntry) -> bool:
    try:
        return hashlib.sha256(canonical(entry)).digest() == entry.hash
    except (struct.error, UnicodeEncodeError):  # a number or text that has no canonical form, so no hash either
        return False


def _broken(entry: AuditEntry, what: str) -> ChainBroken:
    return ChainBroken(
        f"audit entry {entry.sequence} {what}",
        hint="compare the log with a copy that an auditor keeps",
        sequence=str(entry.sequence),
    )
