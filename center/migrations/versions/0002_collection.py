"""What collection needs: tags; which revisions each channel has named, read out of the audit log; a name of its own."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BATCH = 500


def upgrade() -> None:
    op.create_table(
        "tags",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("tag", sa.String(63), nullable=False),
        sa.Column("revision", sa.String(71), nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "tag", name=op.f("pk_tags")),
        _of_a_revision("tags"),
    )
    history = op.create_table(
        "channel_history",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("channel", sa.String(63), nullable=False),
        sa.Column("revision", sa.String(71), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "channel", "revision", name=op.f("pk_channel_history")),
        _of_a_revision("channel_history"),
    )
    rows = [dict(zip(("model", "channel", "revision", "version"), row, strict=True)) for row in _moves()]
    for start in range(0, len(rows), _BATCH):
        op.bulk_insert(history, rows[start : start + _BATCH])
    named = op.create_table(
        "catalog_id", sa.Column("id", sa.String(36)), sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_id"))
    )
    op.bulk_insert(named, [{"id": str(uuid.uuid4())}])


def _of_a_revision(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["model", "revision"],
        ["revisions.model", "revisions.revision"],
        name=op.f(f"fk_{table}_model_revision_revisions"),
    )


def _moves() -> list[tuple[str, str, str, int]]:
    """Model, channel, revision, and the number of the entry that last moved the one to the other."""
    connection = op.get_bind()
    columns = [sa.column("sequence"), sa.column("action"), sa.column("resource"), sa.column("details", sa.JSON)]
    audit = sa.table("audit", *columns)
    moved = sa.select(audit).where(audit.c.action == "CHANNEL_MOVED").order_by(audit.c.sequence)
    last: dict[tuple[str, str, str], int] = {}
    for entry in connection.execute(moved):
        _, model, _, channel = entry.resource.split("/")
        last[model, channel, entry.details["revision"]] = entry.sequence
    return [(*names, sequence) for names, sequence in last.items()]


def downgrade() -> None:
    for table in ("catalog_id", "channel_history", "tags"):
        op.drop_table(table)
