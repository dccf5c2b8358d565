"""Trials for loops of the user's own: the door does for them what a worker does for itself, in short transactions.

No transaction is open while the search or the pruner thinks, and it is nobody's turn to write: see `turns.py`.
"""

from datetime import timedelta

from sqlalchemy.orm import Session

from app.problems import invalid
from app.reporting import end_of, last_value, with_reports
from app.turns import Turns
from lrtune import search
from lrtune.analysis.prefixes import Course
from lrtune.errors import HoldsTooMany, JobFinished, NotExternal
from lrtune.space import shown
from lrtune.store import Database, beginnings, budgets, checkpoints, histories, holds, jobs, leases, trials, warm_start
from lrtune.store.holds import Shown, held
from lrtune.wire.external import RATES, Ending, Handout, Hold, Sent, misplaced
from lrtune.wire.job import Metric
from lrtune.wire.results import OVER, JobState, NextStep, Trial, TrialState, report_points

MOST_HELD = 256  # trials of a job by one name: all loops that give themselves none share one
ASKS = 20  # of the search in one request: others may add the trial that it found
PATIENCE = 10.0  # seconds that a request waits for those before it to have been suggested theirs
WAIT_SECONDS, SOON_SECONDS = 2, 1  # until it is worth asking again


async def hand_out(turns: Turns, job_id: str, hold: Hold) -> Handout | int:
    """The next trial of a job; or, while others train all there is, or think of it, after how many seconds to ask.

    Raises UnknownJob, NotExternal, JobFinished.
    """
    thinker = turns.thinker(job_id, "suggestion")
    before, found = thinker.times, await turns.write(_claimed, job_id, hold)
    if not isinstance(found, checkpoints.Loop):
        return found or WAIT_SECONDS
    try:
        async with turns.alone(thinker, PATIENCE):
            if thinker.times != before:  # what was suggested meanwhile may be enough for this one
                found = await turns.write(_claimed, job_id, hold)
            for _ in range(ASKS):
                if not isinstance(found, checkpoints.Loop):
                    return found or WAIT_SECONDS
                step, known = await turns.think("suggestion", _next, job_id, hold, found, 1 + thinker.waiting)
                if step.nothing_to_do:
                    return WAIT_SECONDS
                found = await turns.write(_carried_out, job_id, step, known, hold)
    except TimeoutError:
        return SOON_SECONDS
    return WAIT_SECONDS if isinstance(found, checkpoints.Loop) else found or WAIT_SECONDS


def _claimed(database: Database, job_id: str, hold: Hold) -> Handout | checkpoints.Loop | None:
    """A trial that waits; the loop that asks where none does; None where the job is paused."""
    while True:
        with database.write() as tx:
            job = _asked(tx, job_id)
            if job.row.state == JobState.PAUSED:
                return None
            if holds.count(tx, job.row.seq, hold.worker) >= MOST_HELD:
                raise HoldsTooMany(f"{hold.worker!r} holds {MOST_HELD} trials of this job, which is as many as one may")
            if leases.requeue(tx, now=job.now):
                continue
            ttl, now = timedelta(seconds=hold.lease_seconds), job.now
            loop = checkpoints.seen(tx, job.row.seq, hold, now=now)
            lease = leases.claim(tx, hold.worker, ttl=ttl, job_id=job_id, loop=loop, now=now)
            return loop if lease is None else _handout(tx, lease, hold, loop)


def _next(database: Database, job_id: str, hold: Hold, loop: checkpoints.Loop, waiting: int) -> tuple[NextStep, int]:
    """What the search wants next, for so many loops that wait, and how many decisions that rests on."""
    with database.read() as tx:
        job, history = _asked(tx, job_id), histories.of(job_id).read(tx)
        earlier = warm_start.read(tx, job.spec, before=job.row.created_at)
        begun, extended_at = beginnings.at_hand(tx, loop), budgets.extended_at(tx, job_id, history)
    step = search.advance(
        job.spec,
        history,
        steps=job.row.steps or 1,
        seconds=job.seconds,
        warm_start=earlier,
        continued=hold.checkpoints != "none",
        beginnings=search.Beginnings(begun),
        waiting=waiting,
        extended_at=extended_at,
        stopped=job.row.stopped_at is not None,
    )
    return step, job.row.decisions


def _carried_out(
    database: Database, job_id: str, step: NextStep, known: int, hold: Hold
) -> Handout | checkpoints.Loop | None:
    """What the search wants done, for good; then as `_claimed`, which may find that the job is over by that."""
    with database.write() as tx:
        jobs.carry_out(tx, job_id, step, known=known)
    return _claimed(database, job_id, hold)


def _asked(tx: Session, job_id: str) -> jobs.Outline:
    job = jobs.outline(tx, job_id)
    if not job.spec.over_http:
        raise NotExternal
    if job.row.state in OVER:
        more = "" if job.row.state == JobState.CANCELLED else " unless it is extended (`lrtune extend`)"
        said = f"the job is over ({job.row.state}){f': {job.row.reason}' if job.row.reason else ''}"
        raise JobFinished(f"{said}; it has no more trials{more}")
    return job


def _handout(tx: Session, lease: leases.Lease, hold: Hold, loop: checkpoints.Loop) -> Handout:
    lease, checkpoint = beginnings.begin(tx, lease, loop)
    metric, (forget, needed) = lease.spec.metric, beginnings.tidy(tx, loop)
    return Handout(
        trial=lease.trial,
        metric=metric,
        token=lease.token,
        lease_seconds=hold.lease_seconds,
        report_at=report_points(lease.trial.horizon),
        learning_rates=Course.of(lease.trial, metric).rates(0, RATES),
        start=lease.began,
        until=end_of(lease.trial),
        checkpoint=checkpoint,
        forget=forget,
        needed=needed,
        horizon=lease.steps,
        stages=hold.checkpoints != "none" and search.staged(lease.spec),
    )


def finish(tx: Session, job_id: str, number: int, ending: Ending) -> Trial:
    """End a trial as its loop says. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    found = held(tx, Shown(job_id, number, ending.token))
    if not found.over:
        _finish(tx, found.lease, ending)
    return trials.get(tx, job_id, number)


def _finish(tx: Session, lease: leases.Lease, ending: Ending) -> None:
    trial, metric = lease.trial, lease.spec.metric
    if (ending.state == "paused") != (ending.checkpoint is not None):
        rule = "one that is paused names its checkpoint, and no other does"
        detail = f"found {shown(ending.checkpoint)} for a trial that is {ending.state}; {rule}"
        raise invalid([{"pointer": "/checkpoint", "detail": detail}])
    if ending.step is not None and ending.step > trial.horizon:
        raise invalid([{"pointer": "/step", "detail": f"found {ending.step}; this trial has {trial.horizon} steps"}])
    if ending.state == "waiting":
        leases.give_back(tx, lease, reason=ending.reason or "given back by its loop")
        return
    if ending.state == "paused":
        _pause(tx, lease, ending)
        return
    state, step, reason, value = TrialState(ending.state), _reached(trial, ending), ending.reason, None
    if state in (TrialState.COMPLETE, TrialState.STOPPED):
        said = _said(trial, ending, step, metric)
        ended, written = with_reports(trial, [said] if said else [], metric)
        at, value = last_value(ended, metric)
        if value is None and state is TrialState.COMPLETE and ending.value is None:
            detail = f"no report has {metric.name}; accepted is its value at the end: report it or return it"
            raise invalid([{"pointer": "/value", "detail": detail}])
        at = at if ending.value is None or ending.step is None else ending.step
        if state is TrialState.COMPLETE and at != trial.horizon:
            state = TrialState.STOPPED
            reason = f"its loop ended it at step {step} of {trial.horizon}, with {metric.name} of step {at}"
            reason += f": {ending.reason}" if ending.reason else "; a complete run has one of its last step"
        elif state is TrialState.STOPPED:
            reason = f"its loop ended it at step {step} of {trial.horizon}" + (f": {reason}" if reason else "")
        if state is TrialState.STOPPED and written:  # so that the search has it
            leases.report(tx, lease, written, ttl=timedelta(seconds=90))
        if state is TrialState.STOPPED and (gone := _lost_loss(trial)):
            state, value, reason = TrialState.DIVERGED, None, f"{gone} was not finite any more as {reason}"
    reason = "" if state is TrialState.COMPLETE else reason or f"its loop said that it {state}"
    leases.finish(tx, lease, state, value=value, step=step, reason=reason, by="loop")


def _lost_loss(trial: Trial) -> str:
    """The loss beside the job's metric that is not finite in the two newest reports, by its name: it learns no more.

    A loop may stop for it by itself, with an accuracy that is a number still. One report may lack it for other reasons.
    """
    newest = [one.metrics for one in trial.reports[-2:]]
    losses = [name for name in (newest[-1] if newest else {}) if "loss" in name.lower()]
    return next((name for name in losses if all(one.get(name, 0.0) is None for one in newest)), "")


def _said(trial: Trial, ending: Ending, step: int, metric: Metric) -> Sent | None:
    """The value that an ending says, as the report that it is; None where its step has one, for a known one stands."""
    if ending.value is None:
        return None
    if detail := misplaced(metric, ending.value):
        raise invalid([{"pointer": "/value", "detail": detail}])
    at = step if ending.step is None else ending.step
    known = any(at == one and value is not None for one, value in trial.values(metric.name))
    return Sent(step=at, metrics={metric.name: ending.value}) if at and not known else None


def _pause(tx: Session, lease: leases.Lease, ending: Ending) -> None:
    """End a stage, as planned or before: what there is of it is kept. Raises Invalid."""
    trial, metric, end = lease.trial, lease.spec.metric, end_of(lease.trial)
    loop = checkpoints.of(tx, lease.token)
    step = trial.step if ending.step is None else ending.step
    value = dict(trial.values(metric.name)).get(step)
    if loop is None:
        detail = 'found paused; accepted where the trial was taken with {"checkpoints": "own"} or "shared"'
        raise invalid([{"pointer": "/state", "detail": detail}])
    if not lease.began <= step <= end or step == trial.horizon:
        detail = f"found {step}; this stage goes from step {lease.began} to {end}, and a whole run is complete"
        raise invalid([{"pointer": "/step", "detail": detail}])
    if step == end and value is None:
        detail = f"found no report of {metric.name} after step {step}, where the stage ends; report it, then pause"
        raise invalid([{"pointer": "/step", "detail": detail}])
    given = checkpoints.given(tx, lease.token)
    if given and given.trial != lease.id and (given.name, given.step) == (ending.checkpoint, step):
        leases.release(tx, lease, reason=ending.reason or "paused by its loop where it began")
        return
    if step > 0:
        same = loop.deterministic and (not lease.began or (given is not None and given.deterministic))
        checkpoints.keep(tx, lease.id, loop, step=step, name=ending.checkpoint or "", deterministic=same)
    if step == end:
        planned = f"trained until step {step} of {trial.horizon}, as planned"
        leases.pause(tx, lease, value=value, step=step, reason=planned)
    else:
        leases.break_off(tx, lease, step=step, reason=ending.reason or "paused by its loop before the end of its stage")


def _reached(trial: Trial, ending: Ending) -> int:
    """How many steps were trained: those that its loop says or has reported, else all; of one that failed, none."""
    if ending.step is not None or trial.reports or ending.state == "failed":
        return max(trial.step, ending.step or 0)
    return trial.horizon
