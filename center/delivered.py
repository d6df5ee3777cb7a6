"""What edges decided, delivered late or twice, in the log once: each node's spool is a run of numbers that only rises.

The number that was taken last and the entries are written in one transaction, so a delivery that is repeated after a
crash of either side finds its entries known.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select

from center import audit_log
from center.database import Database
from center.errors import BadRequest, SpoolGap
from center.tables import node_spools
from deltaic.v1 import audit_pb2

MAX_ENTRIES = 1_000
MAX_ENTRY_BYTES = 16_384
LOST = "EDGE_ENTRIES_LOST"
_ACTION = re.compile(r"EDGE_[A-Z_]{1,58}")
_NAME = 255
_SPOOL = 64


@dataclass(frozen=True, slots=True)
class _Spool:
    node: str
    name: str


class Delivered:
    """The writing side for nodes. Blocks: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, request: audit_pb2.AppendRequest) -> int:
        """Take what is new; the newest sequence of the spool that is in the log. Raises BadRequest, SpoolGap."""
        _check(request)
        spool = _Spool(request.node, request.spool)
        with self._database.writing() as connection:
            audit_log.lock(connection)
            last = _last(connection, spool)
            new = [entry for entry in request.entries if entry.sequence > last]
            if not new:
                return last
            if new[0].sequence > last + 1:
                _admit_loss(connection, spool, last + 1, new[0], request.oldest_sequence)
            for entry in new:
                _append(connection, spool, entry.time.ToMicroseconds(), entry.action, entry.resource, _facts(entry))
            _remember(connection, spool, new[-1].sequence)
            return new[-1].sequence


def _admit_loss(
    connection: Connection, spool: _Spool, expected: int, first: audit_pb2.SpooledEntry, oldest: int
) -> None:
    """Log that the entries in between are gone, if the node says so. Raises SpoolGap."""
    if oldest != first.sequence:
        raise SpoolGap(
            f"entry {first.sequence} of {spool.node} came where {expected} is next",
            hint="send the entries from there on",
            expected=str(expected),
        )
    details = {"first": str(expected), "last": str(first.sequence - 1), "spool": spool.name}
    _append(connection, spool, first.time.ToMicroseconds(), LOST, f"nodes/{spool.node}", details)


def _append(
    connection: Connection, spool: _Spool, time_us: int, action: str, resource: str, details: Mapping[str, str]
) -> None:
    audit_log.append(
        connection, time_us=time_us, actor=spool.node, action=action, resource=resource, details=dict(details)
    )


def _facts(entry: audit_pb2.SpooledEntry) -> dict[str, str]:
    return {**entry.details, "node_sequence": str(entry.sequence)}


def _last(connection: Connection, spool: _Spool) -> int:
    query = select(node_spools.c.sequence).where(*_is(spool))
    return connection.execute(query).scalar_one_or_none() or 0


def _remember(connection: Connection, spool: _Spool, sequence: int) -> None:
    connection.execute(delete(node_spools).where(*_is(spool)))
    connection.execute(insert(node_spools).values(node=spool.node, spool=spool.name, sequence=sequence))


def _is(spool: _Spool) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return node_spools.c.node == spool.node, node_spools.c.spool == spool.name


def _check(request: audit_pb2.AppendRequest) -> None:
    if not 0 < len(request.node) <= _NAME or not 0 < len(request.spool) <= _SPOOL:
        raise BadRequest("a delivery without the names of its node and spool", hint="send both")
    if len(request.entries) > MAX_ENTRIES:
        raise BadRequest(f"{len(request.entries)} entries in one delivery", hint=f"send at most {MAX_ENTRIES:,}")
    before: int | None = None
    for entry in request.entries:
        if entry.sequence < 1 or (before is not None and entry.sequence != before + 1):
            raise BadRequest(f"entry {entry.sequence} after {before or 0}", hint="number entries from 1, without gaps")
        before = entry.sequence
        if not _ACTION.fullmatch(entry.action):
            raise BadRequest(f"{entry.action[:63]!r} is no action of a node", hint="they begin with EDGE_")
        if entry.ByteSize() > MAX_ENTRY_BYTES:
            raise BadRequest(f"an entry of {entry.ByteSize():,} bytes", hint=f"say it in {MAX_ENTRY_BYTES:,}")
        _check_time(entry)


def _check_time(entry: audit_pb2.SpooledEntry) -> None:
    try:
        entry.time.ToMicroseconds()
    except ValueError:
        raise BadRequest(
            f"entry {entry.sequence} has a time outside of the years 1 to 9999", hint="set the clock of that node"
        ) from None
