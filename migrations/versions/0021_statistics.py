"""PostgreSQL looks at the trials again after so many changes, and not only once a tenth of all have changed.

What it knows of a job that came since it looked last is that there is none of it, and then any index will do for it: a
question about ten trials of a new job goes through all of them. SQLite's plans do not rest on such numbers.

And an index of the few lines in which logs say whether a worker can train the job.

Revision: 0021, after 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SETTINGS = {"autovacuum_analyze_scale_factor": 0, "autovacuum_analyze_threshold": 2000}
SERVED = "kind in ('job-unserved', 'job-served', 'job-submitted')"


def upgrade() -> None:
    where = sa.text(SERVED)
    op.create_index("ix_events_served", "events", ["job", "number"], sqlite_where=where, postgresql_where=where)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"alter table trials set ({', '.join(f'{name} = {value}' for name, value in SETTINGS.items())})")


def downgrade() -> None:
    op.drop_index("ix_events_served", "events")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"alter table trials reset ({', '.join(SETTINGS)})")
