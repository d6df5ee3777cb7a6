"""How far the log of each node has been delivered."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "node_spools",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("spool", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node", "spool", name=op.f("pk_node_spools")),
    )


def downgrade() -> None:
    op.drop_table("node_spools")
