"""Reading trials, and carrying out what the search decides: a new trial, one to resume, which to stop for good."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from lrtune.store import events, lookup, states, tallies
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, ReportRow, TrialRow
from lrtune.wire.results import ACTIVE, RESUMABLE, NextStep, Page, Proposal, Report, Stage, Stop, Trial, TrialState

_FIELDS = [name for name in Trial.model_fields if name not in ("reports", "stages")]
STAGE_FIELDS = [name for name in Stage.model_fields if name != "attempt"]
_IN_ORDER = (AttemptRow.started_at, AttemptRow.number)
# Made once, and as tables: to make them takes longer than what they find.
_STAGES = select(AttemptRow.__table__).where(AttemptRow.trial == bindparam("trial")).order_by(*_IN_ORDER)
_REPORTS = select(ReportRow.__table__).where(ReportRow.trial.in_(bindparam("trials", expanding=True)))
_REPORTS = _REPORTS.order_by(ReportRow.trial, ReportRow.step)
_LAST = select(func.max(TrialRow.number)).where(TrialRow.job == bindparam("job"))
Reports = Mapping[int, Sequence[Any]]  # rows of reports by the id of their trial


@cache  # another name of the table takes longer to make than the rest of the statement
def ready() -> ColumnElement[bool]:
    """A trial that waits for a worker, and not for another trial to train what both begin with."""
    ahead = aliased(TrialRow)
    training = exists().where(
        ahead.id == TrialRow.blocked_by, ahead.state == TrialState.RUNNING, ahead.step < TrialRow.blocked_until
    )
    return and_(TrialRow.state == TrialState.WAITING, ~training)


def optimizer() -> ColumnElement[str]:
    """The name of a trial's optimizer."""
    return TrialRow.configuration[("optimizer", "name")].as_string()  # type: ignore[no-any-return]


def completed(steps: int | None) -> ColumnElement[bool]:
    """A complete run over so many steps, with a value to compare: `Trial.completed` as a condition."""
    return and_(TrialRow.state == TrialState.COMPLETE, TrialRow.horizon == steps, TrialRow.value.is_not(None))


def best_first(goal: str) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The order in which the best value comes first, the older trial where two are equal."""
    return (TrialRow.value.desc() if goal == "maximize" else TrialRow.value.asc()), TrialRow.number.asc()


def view(row: Any, reports: Iterable[Any] = (), stages: Iterable[Any] = (), **known: Any) -> Trial:
    """A row as it travels, with what is `known` of it in its place."""
    fields = {name: getattr(row, name) for name in _FIELDS} | known
    fields["reports"] = [{name: getattr(one, name) for name in Report.model_fields} for one in reports]
    fields["stages"] = [{"attempt": one.number} | {name: getattr(one, name) for name in STAGE_FIELDS} for one in stages]
    for stage in fields["stages"]:
        if stage["outcome"] is None:  # it is being trained: how far that is stands at the trial
            stage |= {"step": row.step, "cost": max(0, row.step - stage["start"])}
    return Trial.model_validate(fields)


def detailed(tx: Session, row: TrialRow) -> Trial:
    """A row with its reports and its stages."""
    stages = tx.execute(_STAGES, {"trial": row.id})
    return view(row, reports(tx, [row.id])[row.id], stages)


def reports(tx: Session, ids: Sequence[int]) -> Reports:
    """The reports of some trials by their ids, each by step."""
    found: dict[int, list[Any]] = {one: [] for one in ids}
    if ids:
        for report in tx.execute(_REPORTS, {"trials": ids}):
            found[report.trial].append(report)
    return found


def page(tx: Session, job_id: str, *, limit: int, cursor: str | None) -> Page[Trial]:
    """Trials by number, without their reports. Raises UnknownJob, Invalid."""
    job = lookup.job(tx, job_id)
    query = select(TrialRow).where(TrialRow.job == job.seq).order_by(TrialRow.number).limit(limit + 1)
    if cursor is not None:
        query = query.where(TrialRow.number > lookup.number(cursor))
    rows = tx.scalars(query).all()
    more = lookup.cursor(rows[limit - 1].number) if len(rows) > limit else None
    return Page(items=[view(row) for row in rows[:limit]], next=more)


def get(tx: Session, job_id: str, number: int) -> Trial:
    """One trial with its reports and stages. Raises UnknownJob, UnknownTrial."""
    return detailed(tx, lookup.trial(tx, lookup.job(tx, job_id), number))


def neighbours(tx: Session, job_id: str, number: int) -> tuple[int | None, int | None]:
    """The numbers of the trials before and after one, where there are any. Raises UnknownJob."""
    rows = TrialRow.job == lookup.job(tx, job_id).seq
    before = tx.scalar(select(func.max(TrialRow.number)).where(rows, TrialRow.number < number))
    return before, tx.scalar(select(func.min(TrialRow.number)).where(rows, TrialRow.number > number))


def history(tx: Session, job_id: str) -> list[Trial]:
    """Every trial of a job with its reports and stages, by number: what the search decides on."""
    return read(tx, TrialRow.job == lookup.job(tx, job_id).seq)


def read(tx: Session, which: ColumnElement[bool]) -> list[Trial]:
    """Some trials with their reports and stages, by number."""
    rows = tx.execute(select(TrialRow.__table__).where(which).order_by(TrialRow.number)).all()
    reports: dict[int, list[Any]] = {row.id: [] for row in rows}
    query = select(ReportRow.__table__).join(TrialRow, TrialRow.id == ReportRow.trial).where(which)
    for report in tx.execute(query.order_by(ReportRow.trial, ReportRow.step)):
        reports.setdefault(report.trial, []).append(report)
    stages: dict[int, list[Any]] = {row.id: [] for row in rows}
    attempts = select(AttemptRow.__table__).join(TrialRow, TrialRow.id == AttemptRow.trial).where(which)
    for attempt in tx.execute(attempts.order_by(*_IN_ORDER)):
        stages.setdefault(attempt.trial, []).append(attempt)
    return [view(row, reports[row.id], stages[row.id]) for row in rows]


def propose(tx: Session, job_id: str, proposal: Proposal, *, known: int, now: datetime | None = None) -> bool:
    """Add a trial, or resume one, that then waits for a worker; `known` is how many decisions the proposal rests on.

    False when another worker was quicker, or the job is not active, or the trial cannot be resumed, or not from where
    the proposal counts on.
    """
    job = lookup.job(tx, job_id, lock=True)
    if job.state not in ACTIVE or job.steps is None or job.decisions != known:
        return False
    now = now or clock(tx)
    stage = {"state": TrialState.WAITING, "reason": "waiting for a worker", "decision": known}
    stage |= {"until": proposal.until, "stage_why": proposal.reason}
    if proposal.resume is None:
        last = tx.scalar(_LAST, {"job": job.seq})
        number = 0 if last is None else last + 1
        run = {"configuration": proposal.configuration.model_dump(mode="json"), "seed": proposal.seed}
        run |= {"horizon": proposal.horizon, "role": proposal.role, "why": proposal.reason}
        tx.add(TrialRow(job=job.seq, number=number, created_at=now, **run, **stage))
        kind, message = "trial-proposed", f"trial {number}: {proposal.reason}"
    else:
        number, there = proposal.resume, (TrialRow.job == job.seq, TrialRow.number == proposal.resume)
        goes_on: dict[str, Any] = {"start": TrialRow.step, "paid": TrialRow.step - TrialRow.reused}
        goes_on |= {"value": None, "stopped_by": None, "finished_at": None, "deaths": 0, "furthest": 0}
        resumable = and_(*there, TrialRow.state.in_(RESUMABLE), states.kept(proposal.start))
        tallies.goes_on(tx, resumable)
        resumed = update(TrialRow).where(resumable).values(stage | goes_on).returning(TrialRow)
        row = tx.scalars(resumed.execution_options(populate_existing=True)).one_or_none()
        if row is None:
            return False
        if proposal.start is not None:
            why = "there is no later state of it"
            go_back(tx, row, proposal.start, began=row.start, why=why, now=now)
        until = f"step {proposal.until} of {proposal.horizon}" if proposal.until else "its end"
        kind, message = "trial-resumed", f"trial {number} goes on until {until}: {proposal.reason}"
    job.decisions = known + 1
    events.add(tx, job.seq, kind, message, now=now, trial=number, decision=known, until=proposal.until)
    return True


def go_back(tx: Session, row: TrialRow, step: int, *, began: int, why: str, now: datetime) -> None:
    """Let the stage at hand begin before the step where it `began`; what its trial has cost stays paid for."""
    if step >= began:
        return
    message = f"trial {row.number} begins again at step {step} instead of {began}: {why}"
    events.add(tx, row.job, "trial-began-again", message, now=now, trial=row.number, step=step, lost=began - step)
    back = {"start": min(step, row.start), "step": step, "reused": step - TrialRow.paid}
    tx.execute(update(TrialRow).where(TrialRow.id == row.id).values(back))
    tx.refresh(row)


def stop(tx: Session, job_id: str, step: NextStep, *, known: int, now: datetime | None = None) -> None:
    """Stop paused trials for good, as the search has said; not if the search has decided more than `known` times."""
    job = lookup.job(tx, job_id, lock=True)
    if job.state not in ACTIVE or job.decisions != known:
        return
    now = now or clock(tx)
    over = and_(TrialRow.job == job.seq, TrialRow.number.in_(step.stopped), TrialRow.state == TrialState.PAUSED)
    tallies.becomes(tx, over, TrialState.STOPPED)
    for number, reason in step.stopped.items():
        paused = (TrialRow.job == job.seq, TrialRow.number == number, TrialRow.state == TrialState.PAUSED)
        by: Stop = "forecast" if number in step.behind else "budget"
        stopped = {"state": TrialState.STOPPED, "reason": reason, "stopped_by": by, "finished_at": now}
        if tx.execute(update(TrialRow).where(*paused).values(stopped).returning(TrialRow.id)).all():
            message = f"trial {number} stopped: {reason}"
            events.add(tx, job.seq, "trial-stopped", message, now=now, trial=number, by=by)
