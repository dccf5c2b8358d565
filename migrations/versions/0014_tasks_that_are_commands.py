"""Tasks that are commands of the workers', and the jobs about them.

Revision: 0014, after 0013
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("command", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    jobs = sa.table("jobs", sa.column("seq"), sa.column("spec", sa.JSON()))
    connection = op.get_bind()
    for seq in connection.scalars(sa.select(jobs.c.seq)).all():
        spec: dict[str, Any] = connection.scalar(sa.select(jobs.c.spec).where(jobs.c.seq == seq))
        if spec["task"].pop("command", None):
            connection.execute(sa.update(jobs).where(jobs.c.seq == seq).values(spec=spec))
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("command")
