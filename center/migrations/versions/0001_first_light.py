"""The first schema: models, revisions, channels, publish requests, the audit chain, reports of nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_models")),
    )
    op.create_table(
        "revisions",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("revision", sa.String(71), nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger, nullable=False),
        sa.Column("file_bytes", sa.BigInteger, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", "revision", name=op.f("pk_revisions")),
        sa.ForeignKeyConstraint(["model"], ["models.model"], name=op.f("fk_revisions_model_models")),
    )
    op.create_index(
        op.f("ix_revisions_model_create_time_us_revision"), "revisions", ["model", "create_time_us", "revision"]
    )
    _tables_that_name_a_revision()
    _audit()
    op.create_table(
        "node_reports",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("report", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_node_reports")),
    )


def _tables_that_name_a_revision() -> None:
    op.create_table(
        "channels",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("channel", sa.String(63), nullable=False),
        sa.Column("revision", sa.String(71), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("update_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "channel", name=op.f("pk_channels")),
        sa.ForeignKeyConstraint(
            ["model", "revision"],
            ["revisions.model", "revisions.revision"],
            name=op.f("fk_channels_model_revision_revisions"),
        ),
    )
    op.create_table(
        "publish_requests",
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("revision", sa.String(71), nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_publish_requests")),
        sa.ForeignKeyConstraint(
            ["model", "revision"],
            ["revisions.model", "revisions.revision"],
            name=op.f("fk_publish_requests_model_revision_revisions"),
        ),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(63), nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "hash": bytes(32)}])


def downgrade() -> None:
    for table in ("node_reports", "audit_head", "audit", "publish_requests", "channels", "revisions", "models"):
        op.drop_table(table)
