"""Trials whose warm-up was drawn by an older rule say so, so that they go on as they began and are drawn as they ran.

Until now a warm-up rose to the peak whatever its family begins with, and lasted the nearest whole number of steps; now
it rises to what the family begins with, a family that rises by itself has none, and it is rounded up. A trial is marked
where the two rules may differ. Downwards the mark goes: the older code knows no other rule.

Revision: 0010, after 0009
"""

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

LOW = ("one-cycle", "linear-growth", "exponential-growth", "cosine-growth", "cyclic", "piecewise")  # begin below peak
MARK = "old_warmup"
TRIALS = sa.table("trials", *map(sa.column, ("id", "horizon")), sa.column("configuration", sa.JSON()))


def upgrade() -> None:
    for trial, horizon, configuration in _trials():
        if _differs(configuration, horizon):
            _write(trial, {**configuration, MARK: True})


def downgrade() -> None:
    for trial, _, configuration in _trials():
        if MARK in configuration:
            _write(trial, {name: value for name, value in configuration.items() if name != MARK})


def _trials() -> list[Any]:
    return list(op.get_bind().execute(sa.select(TRIALS.c.id, TRIALS.c.horizon, TRIALS.c.configuration)).all())


def _differs(configuration: Mapping[str, Any], horizon: int) -> bool:
    steps = configuration.get("warmup", 0.0) * horizon
    rises = configuration["schedule"]["family"] in LOW
    return bool(steps > 0) and (rises or round(steps) != math.ceil(steps))


def _write(trial: int, configuration: Mapping[str, Any]) -> None:
    op.get_bind().execute(sa.update(TRIALS).where(TRIALS.c.id == trial).values(configuration=configuration))
