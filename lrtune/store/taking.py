"""The statement that takes the oldest trial that waits, put together once: that takes longer than the database does."""

from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import ColumnElement, bindparam, func, select, true, update
from sqlalchemy.sql.dml import ReturningUpdate

from lrtune.store import checkpoints, trials
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.external import Checkpoints
from lrtune.wire.results import ACTIVE, TrialState


def oldest(
    job_id: str,
    loop: checkpoints.Loop | None,
    without: tuple[str, ...],
    which: ColumnElement[bool] | None,
    *,
    now: datetime,
) -> tuple[ReturningUpdate[TrialRow], dict[str, Any]]:
    """Taking a job's oldest trial that waits, and parameters; to be added are `ours`, `ours_until`, `by` and `because`.

    For a `loop`, one that it can begin or go on with; `without` some optimizers; `which` is a further condition.
    """
    given: dict[str, Any] = {"of_job": job_id, "now": now}
    if loop is not None:
        given |= {"loop_job": loop.job, "loop_worker": loop.worker, "loop_host": loop.host}
    kind = None if loop is None else loop.checkpoints
    return (_usual(kind, without) if which is None else _statement(kind, without, which)), given


@cache
def _usual(kind: Checkpoints | None, without: tuple[str, ...]) -> ReturningUpdate[TrialRow]:
    return _statement(kind, without, true())


def _statement(
    kind: Checkpoints | None, without: tuple[str, ...], which: ColumnElement[bool]
) -> ReturningUpdate[TrialRow]:
    now = bindparam("now", type_=TrialRow.started_at.type)
    found = (
        select(TrialRow.id)
        .join(JobRow, JobRow.seq == TrialRow.job)
        .where(trials.ready(), JobRow.state.in_(ACTIVE), JobRow.id == bindparam("of_job"), which)
        .order_by(TrialRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=TrialRow)
    )
    if without:
        found = found.where(trials.optimizer().not_in(without))
    if kind is not None:
        job, name, host = (cast("Any", bindparam(one)) for one in ("loop_job", "loop_worker", "loop_host"))
        loop = checkpoints.Loop(job, name, host, kind)
        found = found.where(checkpoints.startable(loop, now=cast("datetime", now)))
    taken: dict[str, Any] = {"state": TrialState.RUNNING, "token": bindparam("ours"), "worker": bindparam("by")}
    taken |= {"lease_until": bindparam("ours_until"), "reason": bindparam("because")}
    taken |= {"blocked_by": None, "blocked_until": 0}
    claimed = update(TrialRow).where(TrialRow.id == found.scalar_subquery()).values(taken)
    claimed = claimed.values(attempt=TrialRow.attempt + 1, started_at=func.coalesce(TrialRow.started_at, now))
    return claimed.returning(TrialRow).execution_options(populate_existing=True)
