"""AuditService: a proof is sent whole, or refused with advice; never a message that no client takes."""

from types import SimpleNamespace

import pytest

from center.audit_servicer import AuditServicer
from center.errors import OutOfRange
from deltaic.trust.audit import AuditEntry
from deltaic.v1 import audit_pb2

CLIENTS_TAKE = 4 << 20


def servicer(entries: int, resource: str) -> AuditServicer:
    chain = tuple(AuditEntry(number, 1, "a", "A", resource) for number in range(1, entries + 1))
    return AuditServicer(SimpleNamespace(prove=lambda _sequence, _head: chain), SimpleNamespace())  # type: ignore[arg-type]


async def test_a_proof_that_no_client_takes_in_one_message_is_refused() -> None:
    with pytest.raises(OutOfRange) as refused:
        await servicer(10_000, "r" * 500).ProveEntry(audit_pb2.ProveEntryRequest(sequence=1), None)  # type: ignore[arg-type]
    assert "older head" in refused.value.hint


async def test_the_largest_proof_is_one_that_clients_take() -> None:
    answer = await servicer(10_000, "r" * 300).ProveEntry(audit_pb2.ProveEntryRequest(sequence=1), None)  # type: ignore[arg-type]
    assert len(answer.chain) == 10_000
    assert answer.ByteSize() < CLIENTS_TAKE
