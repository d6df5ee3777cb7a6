"""The tables of the catalog. The migrations make them; a test holds both equal.

    models 1 ── n revisions 1 ── n channels          audit_head 1 ── audit (chained)
                        1 ── n channel_history       node_reports
                        1 ── n tags
                        1 ── n publish_requests      catalog_id, node_spools

Nothing here belongs to one database: SQLite today, PostgreSQL by another URL. Times are microseconds since 1970 in UTC,
so that they come back exactly as they were hashed into the audit log.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("create_time_us", BigInteger, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("model", String(63), ForeignKey(models.c.model), primary_key=True),
    Column("revision", String(71), primary_key=True),  # sha256:{hex of the manifest}
    Column("manifest_bytes", BigInteger, nullable=False),
    Column("file_bytes", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
    Index(None, "model", "create_time_us", "revision"),
)

channels = Table(
    "channels",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("channel", String(63), primary_key=True),
    Column("revision", String(71), nullable=False),
    Column("version", BigInteger, nullable=False),  # sequence of the audit entry of the last move
    Column("update_time_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "revision"], [revisions.c.model, revisions.c.revision]),
)

# Which revisions a channel has named, and when last: what it can be rolled back to.
channel_history = Table(
    "channel_history",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("channel", String(63), primary_key=True),
    Column("revision", String(71), primary_key=True),
    Column("version", BigInteger, nullable=False),  # sequence of the audit entry of the last move to it
    ForeignKeyConstraint(["model", "revision"], [revisions.c.model, revisions.c.revision]),
)

tags = Table(
    "tags",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("tag", String(63), primary_key=True),
    Column("revision", String(71), nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "revision"], [revisions.c.model, revisions.c.revision]),
)

publish_requests = Table(
    "publish_requests",
    metadata,
    Column("request_id", String(36), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("revision", String(71), nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "revision"], [revisions.c.model, revisions.c.revision]),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(63), nullable=False),
    Column("resource", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Column("previous_hash", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# One row, which every writer locks first: entries get their numbers one after the other on every database.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# One row: what this catalog is called in the stores that it uses, so that no other catalog collects its blobs.
catalog_id = Table("catalog_id", metadata, Column("id", String(36), primary_key=True))

node_reports = Table(
    "node_reports",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("time_us", BigInteger, nullable=False),
    Column("report", LargeBinary, nullable=False),
)

# How far the log of each node has been taken into the audit log; a node that lost its disk has another spool.
node_spools = Table(
    "node_spools",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("spool", String(64), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)
