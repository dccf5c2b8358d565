"""Planned looks, credited prefixes, and trials that wait for another one's prefix.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("trials") as trials:
        trials.add_column(sa.Column("until", sa.Integer(), nullable=True))
        trials.add_column(sa.Column("credited", sa.Integer(), nullable=False, server_default="0"))
        trials.add_column(sa.Column("behind", sa.BigInteger(), nullable=True))
        trials.add_column(sa.Column("behind_step", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("reports") as reports:
        reports.add_column(sa.Column("credited", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("reports") as reports:
        reports.drop_column("credited")
    with op.batch_alter_table("trials") as trials:
        for column in ("behind_step", "behind", "credited", "until"):
            trials.drop_column(column)
