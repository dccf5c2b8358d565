"""How many trials of a job there are in which state, kept as they end; and an index that finds the best complete runs.

Revision: 0016, after 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("trials", sa.Integer(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.seq"], name="fk_tallies_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job", "role", "state", name="pk_tallies"),
    )
    op.execute(
        "insert into tallies (job, role, state, trials, steps) "
        "select job, role, state, count(*), sum(step - reused) from trials "
        "where state not in ('waiting', 'running') group by job, role, state"
    )
    op.drop_index("ix_trials_job_horizon_value", "trials")
    op.create_index("ix_trials_job_state_horizon_value", "trials", ["job", "state", "horizon", "value"])


def downgrade() -> None:
    op.drop_index("ix_trials_job_state_horizon_value", "trials")
    op.create_index("ix_trials_job_horizon_value", "trials", ["job", "horizon", "value"])
    op.drop_table("tallies")
