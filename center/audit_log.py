"""The center's audit log: entries in the catalog's database, appended in the transaction of the decision itself."""

from collections.abc import Mapping

from sqlalchemy import Connection, RowMapping, insert, select, update

from center import tables
from center.database import Database
from center.errors import OutOfRange, UnknownEntry
from center.records import Page
from deltaic.rpc.pages import decode_token, encode_token, page_size
from deltaic.trust.audit import AuditEntry, link

MAX_PROOF_ENTRIES = 10_000
CHANNEL_MOVED = "CHANNEL_MOVED"


def lock(connection: Connection) -> None:
    """Make every other writer wait until this transaction ends; taken before a decision reads what it decides on.

    SQLite has its lock since the transaction began; other databases lock the row of the head.
    """
    connection.execute(select(tables.audit_head.c.id).with_for_update())


def append(
    connection: Connection, *, time_us: int, actor: str, action: str, resource: str, details: Mapping[str, str]
) -> AuditEntry:
    """Chain one entry behind the head, inside the caller's locked transaction: it is there if the decision is."""
    head = connection.execute(select(tables.audit_head)).mappings().one()
    entry = link(
        head["sequence"],
        head["hash"],
        time_us=time_us,
        actor=actor,
        action=action,
        resource=resource,
        details=details,
    )
    connection.execute(
        insert(tables.audit).values(
            sequence=entry.sequence,
            time_us=entry.time_us,
            actor=entry.actor,
            action=entry.action,
            resource=entry.resource,
            details=dict(entry.details),
            previous_hash=entry.previous_hash,
            hash=entry.hash,
        )
    )
    connection.execute(update(tables.audit_head).values(sequence=entry.sequence, hash=entry.hash))
    return entry


class AuditLog:
    """The reading side. Blocks: call it from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_entries(self, size: int = 0, token: str = "") -> Page[AuditEntry]:
        """Oldest first. Raises BadPage."""
        limit = page_size(size)
        position = decode_token(token, "audit", int)
        after = position[0] if position else 0
        query = (
            select(tables.audit)
            .where(tables.audit.c.sequence > after)
            .order_by(tables.audit.c.sequence)
            .limit(limit + 1)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        entries = tuple(_entry(row) for row in rows[:limit])
        more = len(rows) > limit
        return Page(entries, encode_token("audit", entries[-1].sequence) if more else "")

    def prove(self, sequence: int, head: int = 0) -> tuple[AuditEntry, ...]:
        """The chain from an entry to a head, both included; head 0 is the newest.

        Raises UnknownEntry, OutOfRange for more than 10,000 entries after it.
        """
        with self._database.reading() as connection:
            newest = connection.execute(select(tables.audit_head.c.sequence)).scalar_one()
            last = head or newest
            if not 1 <= sequence <= last <= newest:
                raise UnknownEntry(
                    f"no audit entry {sequence} before head {last}", hint=f"the log has entries 1 to {newest}"
                )
            if last - sequence > MAX_PROOF_ENTRIES:
                raise OutOfRange(
                    f"{last - sequence} entries lie between {sequence} and {last}",
                    hint=f"prove against a head at most {MAX_PROOF_ENTRIES} entries later",
                )
            query = (
                select(tables.audit)
                .where(tables.audit.c.sequence.between(sequence, last))
                .order_by(tables.audit.c.sequence)
            )
            rows = connection.execute(query).mappings().all()
        return tuple(_entry(row) for row in rows)


def _entry(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        sequence=row["sequence"],
        time_us=row["time_us"],
        actor=row["actor"],
        action=row["action"],
        resource=row["resource"],
        details=row["details"],
        previous_hash=row["previous_hash"],
        hash=row["hash"],
    )
