"""The chained log: what its bytes are, and that no change goes unseen."""

import hashlib
import struct
from dataclasses import replace

import pytest

from deltaic.errors import InvalidArgument
from deltaic.trust.audit import FIRST_PREVIOUS_HASH, AuditEntry, canonical, link, verify
from deltaic.trust.errors import ChainBroken


def chain(length: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    sequence, previous = 0, FIRST_PREVIOUS_HASH
    for number in range(length):
        entry = link(
            sequence,
            previous,
            time_us=1_700_000_000_000_000 + number,
            actor="cli@desk",
            action="CHANNEL_MOVED",
            resource="models/m/channels/stable",
            details={"revision": f"r{number}", "previous_revision": ""},
        )
        entries.append(entry)
        sequence, previous = entry.sequence, entry.hash
    return entries


def test_the_canonical_form_is_the_one_that_the_format_page_specifies() -> None:
    entry = AuditEntry(1, 5, "ä", "A", "r", {"b": "2", "a": "1"})

    def text(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    expected = (
        b"deltaic.audit.v1\n"
        + struct.pack(">Qq", 1, 5)
        + text("ä".encode())
        + text(b"A")
        + text(b"r")
        + struct.pack(">I", 2)
        + text(b"a")
        + text(b"1")
        + text(b"b")
        + text(b"2")
        + text(bytes(32))
    )
    assert canonical(entry) == expected


def test_the_hash_of_a_known_entry_never_changes() -> None:
    entry = link(0, FIRST_PREVIOUS_HASH, time_us=0, actor="a", action="B", resource="c", details={})
    assert entry.hash == hashlib.sha256(canonical(entry)).digest()
    assert entry.hash.hex() == "b51a71e8f84f69127aec4d80f9434c71157131b590271dd469ddefd87bcacb2f"


def test_a_chain_that_nobody_touched_verifies_whole_and_from_the_middle() -> None:
    entries = chain(5)
    assert verify(entries) == 5
    assert verify(entries[2:]) == 3
    assert verify([]) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "someone else"},
        {"action": "REVISION_PUBLISHED"},
        {"resource": "models/m/channels/canary"},
        {"time_us": 1},
        {"details": {}},
        {"previous_hash": bytes([1]) * 32},
        {"hash": bytes(32)},
        {"time_us": 1 << 63},
        {"actor": "\ud800"},
    ],
)
def test_a_changed_entry_breaks_the_chain(change: dict[str, object]) -> None:
    entries = chain(3)
    entries[1] = replace(entries[1], **change)  # type: ignore[arg-type]
    with pytest.raises(ChainBroken, match="audit entry 2"):
        verify(entries)


def test_an_entry_rehashed_after_a_change_breaks_at_the_next_one() -> None:
    entries = chain(3)
    forged = replace(entries[1], actor="someone else")
    entries[1] = replace(forged, hash=hashlib.sha256(canonical(forged)).digest())
    with pytest.raises(ChainBroken, match="audit entry 3 names another hash"):
        verify(entries)


def test_a_removed_entry_breaks_the_chain() -> None:
    entries = chain(3)
    with pytest.raises(ChainBroken, match="audit entry 3 does not follow entry 1"):
        verify([entries[0], entries[2]])


def test_a_first_entry_with_a_predecessor_is_refused() -> None:
    entry = link(0, bytes([7]) * 32, time_us=0, actor="a", action="B", resource="c", details={})
    with pytest.raises(ChainBroken, match="is the first"):
        verify([entry])


def test_an_entry_survives_the_journey_through_its_message() -> None:
    entry = chain(2)[1]
    assert AuditEntry.from_proto(entry.to_proto()) == entry


def test_a_time_finer_than_a_microsecond_is_refused() -> None:
    message = chain(1)[0].to_proto()
    message.time.nanos += 1
    with pytest.raises(InvalidArgument, match="finer than a microsecond"):
        AuditEntry.from_proto(message)
