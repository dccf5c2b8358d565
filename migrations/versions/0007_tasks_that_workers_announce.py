"""Tasks that workers announce, and the task of each job where a claim can ask for it.

Revision: 0007, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tasks"),
    )
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("task", sa.String(200), nullable=False, server_default=""))
    jobs_table = sa.table("jobs", sa.column("seq"), sa.column("spec", sa.JSON()), sa.column("task"))
    connection = op.get_bind()
    for seq, spec in connection.execute(sa.select(jobs_table.c.seq, jobs_table.c.spec)).all():
        named = sa.update(jobs_table).where(jobs_table.c.seq == seq)
        connection.execute(named.values(task=spec["task"]["name"]))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("task")
    op.drop_table("tasks")
