"""Whose turn it is: shares of owners, priorities of jobs, what they need of a worker, and who thinks for them.

Revision: 0018, after 0017
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("state in ('queued', 'running')")
NEW: dict[str, dict[str, dict[str, Any]]] = {
    "jobs": {
        "rank": {"type_": sa.Integer(), "nullable": False, "server_default": "0"},
        "device": {"type_": sa.String(16)},
        "memory_gb": {"type_": sa.Double()},
        "size": {"type_": sa.BigInteger(), "nullable": False, "server_default": "0"},
        "served": {"type_": sa.BigInteger(), "nullable": False, "server_default": "0"},
        "pace": {"type_": sa.Double()},
        "thought": {"type_": sa.Integer(), "nullable": False, "server_default": "-1"},
        "thinker": {"type_": sa.String(100)},
        "thinking_until": {"type_": sa.DateTime(timezone=True)},
    },
    "workers": {
        "kind": {"type_": sa.String(16), "nullable": False, "server_default": ""},
        "memory_gb": {"type_": sa.Double()},
        "count": {"type_": sa.Integer(), "nullable": False, "server_default": "1"},
    },
    "attempts": {"charged": {"type_": sa.Double()}},
}
INDEXES = {
    "ix_jobs_next": ["owner", "rank", "size", "seq"],
    "ix_jobs_unserved": ["owner", "served", "seq"],
}


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("virtual", sa.Double(), nullable=False, server_default="0"),
        sa.Column("taken", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("owner", name="pk_shares"),
    )
    op.execute("insert into shares (owner) select distinct owner from jobs")
    op.execute("insert into shares (owner) values ('')")
    for table, columns in NEW.items():
        for name, what in columns.items():
            op.add_column(table, sa.Column(name, **what))
    op.execute(
        "update jobs set size = coalesce(steps, 0) where not exists "
        "(select 1 from tallies where job = jobs.seq and state = 'complete' and role <> 'range-test' and trials > 0)"
    )
    op.execute(
        "update jobs set size = 4611686018427387904 where exists "
        "(select 1 from tallies where job = jobs.seq and state = 'complete' and role <> 'range-test' and trials > 0)"
    )
    for name, of in INDEXES.items():
        op.create_index(name, "jobs", of, sqlite_where=UNFINISHED, postgresql_where=UNFINISHED)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "jobs")
    for table, columns in NEW.items():
        for name in columns:
            op.drop_column(table, name)
    op.drop_table("shares")
