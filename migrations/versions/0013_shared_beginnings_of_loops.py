"""Deterministic loops of the user's own: what they declare, and which checkpoint an attempt goes on from.

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("loops", "checkpoints"):
        with op.batch_alter_table(name) as table:
            table.add_column(sa.Column("deterministic", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("checkpoint", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_column("checkpoint")
    for name in ("checkpoints", "loops"):
        with op.batch_alter_table(name) as table:
            table.drop_column("deterministic")
