"""Trials for loops of the user's own: the door does for them what a worker does for itself, in short transactions.

No transaction is open while the search or the pruner thinks, so that other writers need not wait for it.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

from sqlalchemy.orm import Session

from app.problems import invalid
from lrtune import search
from lrtune.analysis.prefixes import Course
from lrtune.errors import JobFinished, NotExternal
from lrtune.store import Database, jobs, leases, trials, warm_start
from lrtune.store.holds import Held, held
from lrtune.wire.external import RATES, Batch, Ending, Handout, Hold, Sent, Verdict
from lrtune.wire.job import Metric
from lrtune.wire.results import OVER, Job, JobState, Report, Trial, TrialState, report_points
from lrtune.wire.strategies import NoPruner

ASKS = 20  # of the search in one request: others may add the trial that it found


def hand_out(database: Database, job_id: str, hold: Hold) -> Handout | None:
    """The next trial of a job; None while others train all there is. Raises UnknownJob, NotExternal, JobFinished."""
    for _ in range(ASKS):
        with database.write() as tx:
            job = _asked(tx, job_id)
            if job.state is JobState.PAUSED:
                return None
            lease = leases.claim(tx, hold.worker, ttl=timedelta(seconds=hold.lease_seconds), job_id=job_id)
            if lease is not None:
                return _handout(lease, hold)
            history, seconds = trials.history(tx, job_id), jobs.running_for(tx, job)
            earlier = warm_start.read(tx, job.spec, before=job.created_at)
        steps = job.steps or 1
        step = search.advance(job.spec, history, steps=steps, seconds=seconds, warm_start=earlier, continued=False)
        if step.nothing_to_do:
            return None
        with database.write() as tx:
            jobs.carry_out(tx, job_id, step, known=trials.decided(history))
    return None


def _asked(tx: Session, job_id: str) -> Job:
    job = jobs.get(tx, job_id)
    if not job.spec.external:
        raise NotExternal
    if job.state in OVER:
        raise JobFinished(f"the job has {job.state}{f': {job.reason}' if job.reason else ''}; it has no more trials")
    return job


def _handout(lease: leases.Lease, hold: Hold) -> Handout:
    metric = lease.spec.metric
    return Handout(
        trial=lease.trial,
        metric=metric,
        token=lease.token,
        lease_seconds=hold.lease_seconds,
        report_at=report_points(lease.trial.horizon),
        learning_rates=Course.of(lease.trial, metric).rates(0, RATES),
    )


def take(database: Database, job_id: str, number: int, batch: Batch) -> Verdict:
    """Write reports, and say whether to go on. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    with database.write() as tx:
        found = held(tx, job_id, number, batch.token)
        verdict = _over(found) or _written(tx, found.lease, batch)
    if verdict.decision == "stop" or not batch.reports:
        return verdict
    if reason := _pruned(database, found.lease):
        with database.write() as tx:
            found = held(tx, job_id, number, batch.token)
            verdict = _over(found) or _ended(tx, found.lease, TrialState.STOPPED, reason)
    return verdict


def _over(found: Held) -> Verdict | None:
    trial = found.lease.trial
    if not found.over:
        return None
    return Verdict(decision="stop", reason=trial.reason or f"it is {trial.state}", state=trial.state, step=trial.step)


def _written(tx: Session, lease: leases.Lease, batch: Batch) -> Verdict:
    """Write the reports of a trial that is held, and look at what needs no pruner: divergence, a pause."""
    metric, ttl = lease.spec.metric, timedelta(seconds=batch.lease_seconds)
    trial = _with(lease.trial, batch.reports, metric)
    sent = trial.reports[len(trial.reports) - len(batch.reports) :]
    news = leases.report(tx, lease, sent, ttl=ttl) if sent else None
    bad = next((one for one in sent if one.metrics.get(metric.name, 0.0) is None), None)
    if bad is not None:
        reason = f"{metric.name} became not finite at step {bad.step} (learning rate {bad.learning_rate:.3g})"
        return _ended(tx, lease, TrialState.DIVERGED, reason, step=bad.step)
    if (news or leases.renew(tx, lease, ttl=ttl)) is JobState.PAUSED:
        reason = "the job is paused; its trial waits, and starts again when the job goes on"
        leases.release(tx, lease, reason=reason)
        return Verdict(decision="stop", reason=reason, state=TrialState.WAITING, step=trial.step)
    before, course = Course.of(lease.trial, metric), Course.of(trial, metric)
    after = course.rates(trial.step, RATES) if course.curve != before.curve else None
    return Verdict(decision="continue", state=TrialState.RUNNING, step=trial.step, learning_rates=after)


def _with(trial: Trial, sent: Sequence[Sent], metric: Metric) -> Trial:
    """A trial with more reports, each with the rate of its last step; one sent again takes the place of the first."""
    _refuse_disorder(trial, sent)
    for one in sent:
        earlier = [report for report in trial.reports if report.step < one.step]
        trial = trial.model_copy(update={"reports": earlier, "step": one.step})
        rate = Course.of(trial, metric).rate(one.step - 1)
        report = Report(step=one.step, learning_rate=rate, metrics=one.metrics)
        trial = trial.model_copy(update={"reports": [*earlier, report]})
    return trial


def _refuse_disorder(trial: Trial, sent: Sequence[Sent]) -> None:
    for place, one in enumerate(sent):
        if one.step > trial.horizon:
            detail = f"found {one.step}; this trial has {trial.horizon} steps"
            raise invalid([{"pointer": f"/reports/{place}/step", "detail": detail}])
    for place, (first, second) in enumerate(pairwise(sent), start=1):
        if second.step <= first.step:
            detail = f"found {second.step} after {first.step}; accepted are rising steps"
            raise invalid([{"pointer": f"/reports/{place}/step", "detail": detail}])


def _pruned(database: Database, lease: leases.Lease) -> str:
    """Why the pruner would stop a trial here, if it would; never at its end."""
    if isinstance(lease.spec.search.pruner, NoPruner) or lease.trial.role != "search":
        return ""
    with database.read() as tx:
        history = trials.history(tx, lease.job_id)
    trial = next(trial for trial in history if trial.number == lease.trial.number)
    return search.verdict(lease.spec, history, trial, steps=lease.steps).stop if trial.step < trial.horizon else ""


def _ended(tx: Session, lease: leases.Lease, state: TrialState, reason: str, *, step: int | None = None) -> Verdict:
    """End a trial for its loop, which then only hears of it."""
    step = lease.trial.step if step is None else step
    value = _last(lease.trial, lease.spec.metric) if state is TrialState.STOPPED else None
    leases.finish(tx, lease, state, value=value, step=step, reason=reason)
    return Verdict(decision="stop", reason=reason, state=state, step=step)


def finish(tx: Session, job_id: str, number: int, ending: Ending) -> Trial:
    """End a trial as its loop says. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    found = held(tx, job_id, number, ending.token)
    if not found.over:
        _finish(tx, found.lease, ending)
    return trials.get(tx, job_id, number)


def _finish(tx: Session, lease: leases.Lease, ending: Ending) -> None:
    trial, state = lease.trial, TrialState(ending.state)
    if ending.step is not None and ending.step > trial.horizon:
        raise invalid([{"pointer": "/step", "detail": f"found {ending.step}; this trial has {trial.horizon} steps"}])
    if state is TrialState.WAITING:
        leases.release(tx, lease, reason=ending.reason or "given back by its loop")
        return
    value, step = None, trial.step if ending.step is None else ending.step
    if state is TrialState.COMPLETE:
        value, step = _value(lease, ending), trial.horizon if ending.step is None else ending.step
    reason = "" if state is TrialState.COMPLETE else ending.reason or f"its loop said that it {state}"
    leases.finish(tx, lease, state, value=value, step=step, reason=reason)


def _value(lease: leases.Lease, ending: Ending) -> float:
    """The value that a run came to: as it is said, else as it was reported last."""
    metric = lease.spec.metric
    value = _last(lease.trial, metric) if ending.value is None else ending.value
    if value is None:
        detail = f"found none, and no report has {metric.name}; accepted is what {metric.name} came to at the end"
        raise invalid([{"pointer": "/value", "detail": detail}])
    return value


def _last(trial: Trial, metric: Metric) -> float | None:
    return next((value for _, value in reversed(trial.values(metric.name)) if value is not None), None)
