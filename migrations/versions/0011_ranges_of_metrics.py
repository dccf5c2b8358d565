"""Metrics know their range: announced tasks have a place for it, and older jobs on built-in tasks are told theirs.

Going down, jobs lose it, and their own baseline and `try`, because what came before does not know these fields.

Revision: 0011, after 0010
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BUILT_IN = ("digits", "tabular", "images", "text", "huggingface")
RANGES = {"val_loss": [0.0, None], "val_accuracy": [0.0, 1.0], "val_mae": [0.0, None]}


def upgrade() -> None:
    with op.batch_alter_table("tasks") as tasks:
        tasks.add_column(sa.Column("ranges", sa.JSON(), nullable=False, server_default="{}"))
    _rewrite(_with_range)


def downgrade() -> None:
    _rewrite(_without_range)
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("ranges")


def _with_range(spec: dict[str, Any]) -> dict[str, Any]:
    metric = spec["metric"]
    known = RANGES.get(metric["name"]) if spec["task"]["name"] in BUILT_IN else None
    return spec | {"metric": metric | {"range": known}} if known else spec


def _without_range(spec: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in spec.items() if name not in ("baseline", "try")}
    return known | {"metric": {name: value for name, value in spec["metric"].items() if name != "range"}}


def _rewrite(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The specification of every job, one at a time."""
    jobs = sa.table("jobs", sa.column("seq"), sa.column("spec", sa.JSON()))
    connection = op.get_bind()
    for seq in connection.scalars(sa.select(jobs.c.seq)).all():
        spec = connection.scalar(sa.select(jobs.c.spec).where(jobs.c.seq == seq))
        connection.execute(sa.update(jobs).where(jobs.c.seq == seq).values(spec=change(spec)))
