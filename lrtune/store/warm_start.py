"""What a job may learn from older ones (`warm_start`): which of them, and their trials.

Decided once, as the job is submitted: from then on the job names them, and only what they knew by then counts.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.errors import Invalid, Rejection, UnreadableJob
from lrtune.store import events, lookup, trials
from lrtune.store.database import Parts
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.job import WARM_START_JOBS, AdmittedJob, TaskSpec
from lrtune.wire.results import OBSERVED, OVER, Trial, TrialState, WarmStartTrial
from lrtune.wire.tasks import BUILT_IN

LOOKED_AT = 500  # jobs on a task, newest first, when all that fit are asked for


def resolved(tx: Session, spec: AdmittedJob, *, only: str | None = None) -> AdmittedJob:
    """The job with the ids of those it will learn from, newest first where it asked for all. Raises Invalid.

    Where it is for somebody who sees `only` their own jobs, those of others are as if they were not there.
    """
    if spec.warm_start is False:
        return spec
    seen = [JobRow.owner == only] if only is not None else []
    if spec.warm_start is True:
        query = select(JobRow).where(
            *seen, JobRow.state.in_(OVER), Parts(JobRow.spec)["task"]["name"].as_string() == spec.task.name
        )
        rows = tx.scalars(query.order_by(JobRow.seq.desc()).limit(LOOKED_AT))
        ids = [row.id for row in islice((row for row in rows if not _unlike(spec, row)), WARM_START_JOBS)]
    else:
        ids = list(dict.fromkeys(spec.warm_start))
        known = {row.id: row for row in tx.scalars(select(JobRow).where(*seen, JobRow.id.in_(ids)))}
        wrong: list[Rejection] = [
            {"pointer": f"/warm_start/{place}", "detail": f"found {job_id[:60]!r}, {reason}"}
            for place, job_id in enumerate(ids)
            if (reason := _unlike(spec, known.get(job_id)))
        ]
        if wrong:
            raise Invalid(f"{wrong[0]['pointer']}: {wrong[0]['detail']}", wrong)
    return spec.model_copy(update={"warm_start": ids})


def _unlike(spec: AdmittedJob, row: JobRow | None) -> str:
    """Why a job has nothing to teach this one, in words; nothing where it has."""
    if row is None:
        return "which is no job here; accepted are ids of jobs that are over"
    if row.state not in OVER:
        return f"which is {row.state}; accepted are jobs that are over"
    try:
        old = lookup.asked(row)
    except UnreadableJob as error:
        return f"which cannot be learned from: {error}"
    if old.task.name != spec.task.name:
        return f"a job on the task {old.task.name}; accepted are jobs on {spec.task.name}"
    theirs, ours = _params(old.task), _params(spec.task)
    if theirs != ours:
        other = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
        return f"a job on {old.task.name} with other {', '.join(other)}; accepted are jobs with the same parameters"
    if (old.metric.name, old.metric.goal) != (spec.metric.name, spec.metric.goal):
        way = f" (to {old.metric.goal} it)" if old.metric.name == spec.metric.name else ""
        return f"a job that tuned {old.metric.name}{way}; accepted are jobs that tuned the same metric the same way"
    return ""


def _params(task: TaskSpec) -> dict[str, Any]:
    """A task's parameters; those that there were not yet when its job was submitted have their defaults."""
    known = BUILT_IN[task.name].params.model_fields if task.name in BUILT_IN else {}
    return {name: field.get_default() for name, field in known.items() if not field.is_required()} | task.params


def read(tx: Session, spec: AdmittedJob, *, before: datetime | None = None) -> list[WarmStartTrial]:
    """What the jobs that this one names showed `before` a time. One that was deleted since says nothing any more."""
    ids = spec.warm_start if isinstance(spec.warm_start, list) else []
    there = set(tx.scalars(select(JobRow.id).where(JobRow.id.in_(ids))))
    known = [(job_id, _at(trial, before)) for job_id in ids if job_id in there for trial in trials.history(tx, job_id)]
    return [WarmStartTrial(job=job_id, trial=trial) for job_id, trial in known if trial and trial.state in OBSERVED]


def _at(trial: Trial, before: datetime | None) -> Trial | None:
    """A trial as it was at a time when its job was over; one that was resumed since was stopped after a stage."""
    if before is None or (trial.finished_at and trial.finished_at <= before):
        return trial
    ended = [stage for stage in trial.stages if stage.ended_at and stage.ended_at <= before]
    last = next((stage for stage in reversed(ended) if stage.outcome in ("paused", "finished")), None)
    if last is None:
        return None
    seen = [report for report in trial.reports if report.step <= last.step]
    then = {"start": last.step, "until": last.until, "step": last.step, "value": None, "reports": seen, "stages": ended}
    return trial.model_copy(update=then | {"state": TrialState.STOPPED})


def log(tx: Session, row: JobRow, *, now: datetime) -> None:
    """Say in a job's log what it learns from: nothing is taken from older jobs without it."""
    ids = row.spec["warm_start"]
    if ids is False:
        return
    query = select(JobRow.id, TrialRow.horizon, func.count()).join(TrialRow, TrialRow.job == JobRow.seq)
    query = query.where(JobRow.id.in_(ids), TrialRow.state.in_(OBSERVED), TrialRow.finished_at <= now)
    found = tx.execute(query.group_by(JobRow.id, TrialRow.horizon).order_by(TrialRow.horizon)).all()
    taken = {job_id: {steps: count for one, steps, count in found if one == job_id} for job_id in ids}
    counts = {job_id: sum(one.values()) for job_id, one in taken.items()}
    events.add(tx, row.seq, "warm-start", f"warm start: {_words(taken)}", now=now, jobs=counts)


def _words(taken: Mapping[str, Mapping[int, int]]) -> str:
    if not taken:
        return "no earlier job on this task with these parameters and this metric, so nothing to learn from"
    parts = [
        f"{sum(counts.values())} trials of {job_id}" + (f" ({' and '.join(map(str, counts))} steps)" if counts else "")
        for job_id, counts in taken.items()
    ]
    return f"the search learns from {', '.join(parts)}"
