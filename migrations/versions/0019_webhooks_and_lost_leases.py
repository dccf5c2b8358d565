"""Who is told of a job's end, whose reports are thinned, and an index that finds the leases that were lost lately.

Revision: 0019, after 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

LOST = "outcome = 'lost'"


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "webhooks",
        sa.Column("job", key, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.seq"], name="fk_webhooks_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_next_at", "webhooks", ["next_at"])
    op.add_column("jobs", sa.Column("thinned", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_attempts_lost", "attempts", ["ended_at"], sqlite_where=sa.text(LOST), postgresql_where=sa.text(LOST)
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_lost", "attempts")
    op.drop_table("webhooks")
    op.drop_column("jobs", "thinned")
