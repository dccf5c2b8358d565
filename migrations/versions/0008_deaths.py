"""How often a trial's workers died since it last got further, so that only such deaths are held against it.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("trials") as trials:
        trials.add_column(sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"))
        trials.add_column(sa.Column("furthest", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("trials") as trials:
        for column in ("furthest", "deaths"):
            trials.drop_column(column)
