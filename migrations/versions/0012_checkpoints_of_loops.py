"""Loops of the user's own that can go on from a checkpoint: who asks for trials, and what the checkpoints are called.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "loops",
        sa.Column("job", ID, sa.ForeignKey("jobs.seq", ondelete="CASCADE", name="fk_loops_job"), nullable=False),
        sa.Column("worker", sa.String(100), nullable=False),
        sa.Column("host", sa.String(100), nullable=False),
        sa.Column("checkpoints", sa.String(8), nullable=False),
        sa.Column("alive_until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("job", "worker", name="pk_loops"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", ID, nullable=False),
        sa.Column(
            "trial", ID, sa.ForeignKey("trials.id", ondelete="CASCADE", name="fk_checkpoints_trial"), nullable=False
        ),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(1024), nullable=False),
        sa.Column("host", sa.String(100), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
    )
    op.create_index("ix_checkpoints_trial", "checkpoints", ["trial"])


def downgrade() -> None:
    op.drop_table("checkpoints")
    op.drop_table("loops")
