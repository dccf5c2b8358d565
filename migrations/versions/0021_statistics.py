"""PostgreSQL looks at the trials again after so many changes, and not only once a tenth of all have changed.

What it knows of a job that came since it looked last is that there is none of it, and then any index will do for it: a
question about ten trials of a new job goes through all of them. SQLite's plans do not rest on such numbers.

Revision: 0021, after 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SETTINGS = {"autovacuum_analyze_scale_factor": 0, "autovacuum_analyze_threshold": 2000}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"alter table trials set ({', '.join(f'{name} = {value}' for name, value in SETTINGS.items())})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"alter table trials reset ({', '.join(SETTINGS)})")
