"""AuditService: messages to the audit log and back. Only nodes write through it, what they decided."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from typing import Any

import grpc

from center.audit_log import AuditLog
from center.delivered import Delivered
from center.errors import OutOfRange
from deltaic.transfer.threads import in_thread
from deltaic.v1 import audit_pb2, audit_pb2_grpc

_MOST_BYTES = 4_000_000
"""gRPC clients take messages of 4 MiB."""


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, log: AuditLog, delivered: Delivered) -> None:
        self._log = log
        self._delivered = delivered

    async def Append(
        self, request: audit_pb2.AppendRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> audit_pb2.AppendResponse:
        return audit_pb2.AppendResponse(last_sequence=await in_thread(self._delivered.append, request))

    async def ListEntries(
        self, request: audit_pb2.ListEntriesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> audit_pb2.ListEntriesResponse:
        page = await in_thread(self._log.list_entries, request.page_size, request.page_token)
        return audit_pb2.ListEntriesResponse(
            entries=[entry.to_proto() for entry in page.items], next_page_token=page.next_token
        )

    async def ProveEntry(
        self, request: audit_pb2.ProveEntryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> audit_pb2.ProveEntryResponse:
        return await in_thread(self._proof, request.sequence, request.head_sequence)

    def _proof(self, sequence: int, head: int) -> audit_pb2.ProveEntryResponse:
        chain = self._log.prove(sequence, head)
        proof = audit_pb2.ProveEntryResponse(chain=[entry.to_proto() for entry in chain])
        if proof.ByteSize() > _MOST_BYTES:
            raise OutOfRange(
                f"the {len(chain):,} entries of this proof have {proof.ByteSize():,} bytes, too many for one message",
                hint="prove against an older head, nearer to the entry",
            )
        return proof
