"""Trials for loops of the user's own: the door does for them what a worker does for itself, in short transactions.

No transaction is open while the search or the pruner thinks, and it is nobody's turn to write: see `turns.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.orm import Session

from app.problems import invalid
from app.turns import Turns
from lrtune import search
from lrtune.analysis.prefixes import Course
from lrtune.errors import HoldsTooMany, JobFinished, NotExternal, Rejection
from lrtune.space import shown
from lrtune.store import Database, beginnings, checkpoints, histories, holds, jobs, leases, trials, warm_start
from lrtune.store.holds import Held, held, remark
from lrtune.wire.external import (
    ENDED_BY_LOOP,
    MOST_REPORTS,
    RATES,
    Batch,
    Ending,
    Handout,
    Hold,
    Sent,
    Verdict,
    elsewhere,
    misnamed,
    misplaced,
)
from lrtune.wire.job import Metric
from lrtune.wire.results import OVER, JobState, NextStep, Report, Trial, TrialState, report_points

MOST_HELD = 256  # trials of a job by one name: all loops that give themselves none share one
ASKS = 20  # of the search in one request: others may add the trial that it found
PATIENCE = 10.0  # seconds that a request waits for those before it to have been suggested theirs
WAIT_SECONDS, SOON_SECONDS = 2, 1  # until it is worth asking again


async def hand_out(turns: Turns, job_id: str, hold: Hold) -> Handout | int:
    """The next trial of a job; or, while others train all there is, or think of it, after how many seconds to ask.

    Raises UnknownJob, NotExternal, JobFinished.
    """
    found = await turns.write(_claimed, job_id, hold)
    if not isinstance(found, checkpoints.Loop):
        return found or WAIT_SECONDS
    try:
        async with turns.alone(job_id, "suggestion", PATIENCE) as thinker:
            for _ in range(ASKS):
                found = await turns.write(_claimed, job_id, hold)
                if not isinstance(found, checkpoints.Loop):
                    return found or WAIT_SECONDS
                step, known = await turns.think("suggestion", _next, job_id, hold, found, 1 + thinker.waiting)
                if step.nothing_to_do:
                    return WAIT_SECONDS
                await turns.write(_carried_out, job_id, step, known)
    except TimeoutError:
        return SOON_SECONDS
    return WAIT_SECONDS


def _claimed(database: Database, job_id: str, hold: Hold) -> Handout | checkpoints.Loop | None:
    """A trial that waits; the loop that asks where none does; None where the job is paused."""
    with database.write() as tx:
        if _asked(tx, job_id).state is JobState.PAUSED:
            return None
        if holds.count(tx, job_id, hold.worker) >= MOST_HELD:
            raise HoldsTooMany(f"{hold.worker!r} holds {MOST_HELD} trials of this job, which is as many as one may")
        loop = checkpoints.seen(tx, job_id, hold)
        lease = leases.claim(tx, hold.worker, ttl=timedelta(seconds=hold.lease_seconds), job_id=job_id, loop=loop)
        return loop if lease is None else _handout(tx, lease, hold, loop)


def _next(database: Database, job_id: str, hold: Hold, loop: checkpoints.Loop, waiting: int) -> tuple[NextStep, int]:
    """What the search wants next, for so many loops that wait, and how many decisions that rests on."""
    with database.read() as tx:
        job, history = _asked(tx, job_id), histories.of(job_id).read(tx)
        earlier = warm_start.read(tx, job.spec, before=job.created_at)
        begun = beginnings.at_hand(tx, loop)
    step = search.advance(
        job.spec,
        history,
        steps=job.steps or 1,
        seconds=job.seconds,
        warm_start=earlier,
        continued=hold.checkpoints != "none",
        beginnings=search.Beginnings(begun),
        waiting=waiting,
    )
    return step, trials.decided(history)


def _carried_out(database: Database, job_id: str, step: NextStep, known: int) -> None:
    with database.write() as tx:
        jobs.carry_out(tx, job_id, step, known=known)


def _asked(tx: Session, job_id: str) -> jobs.Outline:
    job = jobs.outline(tx, job_id)
    if not job.spec.over_http:
        raise NotExternal
    if job.state in OVER:
        raise JobFinished(f"the job has {job.state}{f': {job.reason}' if job.reason else ''}; it has no more trials")
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
        until=_end(lease.trial),
        checkpoint=checkpoint,
        forget=forget,
        needed=needed,
    )


def _end(trial: Trial) -> int:
    """The step at which the stage at hand ends."""
    return trial.until or trial.horizon


async def take(turns: Turns, job_id: str, number: int, batch: Batch) -> Verdict:
    """Write reports, and say whether to go on. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    lease, verdict, trial = await turns.write(_taken, job_id, number, batch)
    if trial is None or verdict.decision != "continue" or not search.may_act(lease.spec, trial):
        return verdict
    async with turns.alone(job_id, "verdict"):
        reason = await turns.think("verdict", _pruned, lease)
    return await turns.write(_stopped, job_id, number, batch, reason) if reason else verdict


def _taken(database: Database, job_id: str, number: int, batch: Batch) -> tuple[leases.Lease, Verdict, Trial | None]:
    """Reports written, and the trial as they leave it where some were new."""
    with database.write() as tx:
        found = held(tx, job_id, number, batch.token)
        if verdict := _over(found):
            return found.lease, verdict, None
        if batch.start is not None:
            found = replace(found, lease=_began(tx, found.lease, batch.start))
        if batch.note is not None:
            remark(tx, found.lease, batch.note)
        new = _new(found.lease, batch)
        trial, written = _with(found.lease.trial, new, found.lease.spec.metric)
        return found.lease, _written(tx, found, batch, trial, written), trial if new else None


def _stopped(database: Database, job_id: str, number: int, batch: Batch, reason: str) -> Verdict:
    """The trial stopped, unless it has ended meanwhile."""
    with database.write() as tx:
        found = held(tx, job_id, number, batch.token)
        return _over(found) or _ended(tx, found.lease, TrialState.STOPPED, reason)


def _over(found: Held) -> Verdict | None:
    trial = found.lease.trial
    if not found.over:
        return None
    return Verdict(decision="stop", reason=trial.reason or f"it is {trial.state}", state=trial.state, step=trial.step)


def _began(tx: Session, lease: leases.Lease, start: int) -> leases.Lease:
    """The lease of a loop that says where its training began, which may be before its checkpoint. Raises Invalid."""
    if start > lease.began:
        detail = f"found {start}; this trial goes on from step {lease.began}, or begins before it"
        raise invalid([{"pointer": "/start", "detail": detail}])
    if start == lease.began:
        return lease
    return leases.begin_again(tx, lease, start, why="its loop could not go on from the checkpoint")


def _new(lease: leases.Lease, batch: Batch) -> list[Sent]:
    """The reports of a batch that were not known, by step. Raises Invalid for a batch that cannot be."""
    metric, known = lease.spec.metric.name, {report.step for report in lease.trial.reports}
    wrong = _out_of_place(lease.trial, batch.reports) + _out_of_range(lease.spec.metric, batch.reports)
    newest = max((one.step for one in batch.reports), default=lease.trial.start)
    if newest < lease.trial.start:
        detail = f'{elsewhere(newest, lease.trial.start)}, or say with "start" where the training really began'
        wrong.append({"pointer": "/reports/0/step", "detail": detail})
    measured = {name for one in lease.trial.reports for name in one.metrics}
    measured |= {name for one in batch.reports for name in one.metrics}
    if batch.reports and metric not in measured:
        first = batch.reports[0]
        wrong.append({"pointer": "/reports/0/metrics", "detail": misnamed(first.step, first.metrics, metric)})
    if wrong:
        raise invalid(wrong)
    new = sorted((one for one in batch.reports if one.step not in known), key=lambda one: one.step)
    if len(known) + len(new) <= MOST_REPORTS:
        return new
    asked = {*report_points(lease.trial.horizon), _end(lease.trial)}
    room = max(0, MOST_REPORTS - len(known))
    return [one for place, one in enumerate(new) if place < room or one.step in asked]


def _out_of_place(trial: Trial, sent: Sequence[Sent]) -> list[Rejection]:
    wrong, seen = list[Rejection](), set[int]()
    for place, one in enumerate(sent):
        pointer = f"/reports/{place}/step"
        if one.step > trial.horizon:
            wrong.append({"pointer": pointer, "detail": f"found {one.step}; this trial has {trial.horizon} steps"})
        elif one.step > _end(trial):
            detail = f"found {one.step}; this stage ends at step {_end(trial)}: keep a checkpoint there, and pause"
            wrong.append({"pointer": pointer, "detail": detail})
        elif one.step in seen:
            detail = f"found {one.step} twice in one batch; accepted are reports each of another step"
            wrong.append({"pointer": pointer, "detail": detail})
        seen.add(one.step)
    return wrong


def _out_of_range(metric: Metric, sent: Sequence[Sent]) -> list[Rejection]:
    where = metric.name.replace("~", "~0").replace("/", "~1")
    found = [misplaced(metric, one.metrics.get(metric.name)) for one in sent]
    return [
        {"pointer": f"/reports/{place}/metrics/{where}", "detail": words} for place, words in enumerate(found) if words
    ]


def _written(tx: Session, found: Held, batch: Batch, trial: Trial, written: Sequence[Report]) -> Verdict:
    """Write the new reports of a trial that is held, and look at what needs no pruner: divergence, a pause."""
    lease, now, ttl = found.lease, found.now, timedelta(seconds=batch.lease_seconds)
    metric = lease.spec.metric
    news = leases.report(tx, lease, written, ttl=ttl, now=now) if written else leases.renew(tx, lease, ttl=ttl, now=now)
    newest = max((one.step for one in lease.trial.reports if metric.name in one.metrics), default=0)
    ahead = [one for one in written if one.step > newest]  # an older one fills its place, and no more
    bad = next((one for one in ahead if one.metrics.get(metric.name, 0.0) is None), None)
    if bad is not None:
        reason = f"{metric.name} became not finite at step {bad.step} (learning rate {bad.learning_rate:.3g})"
        return _ended(tx, lease, TrialState.DIVERGED, reason, step=trial.step)
    if news is JobState.PAUSED:
        reason = "the job is paused; its trial waits, and starts again when the job goes on"
        leases.release(tx, lease, reason=reason)
        return Verdict(decision="stop", reason=reason, state=TrialState.WAITING, step=trial.step)
    # Also where all are known: the answer that had the new rates may have been lost.
    sent = {one.step for one in batch.reports}
    before = trial.model_copy(update={"reports": [one for one in trial.reports if one.step not in sent]})
    course = Course.of(trial, metric)
    after = course.rates(trial.step, RATES) if course.curve != Course.of(before, metric).curve else None
    if trial.until is not None and trial.step >= trial.until:
        reason = f"trained until step {trial.until} of {trial.horizon}, as planned"
        return Verdict(decision="pause", reason=reason, state=TrialState.RUNNING, step=trial.step)
    return Verdict(decision="continue", state=TrialState.RUNNING, step=trial.step, learning_rates=after)


def _with(trial: Trial, new: Sequence[Sent], metric: Metric) -> tuple[Trial, list[Report]]:
    """A trial with more reports, and those, each with the rate of its last step as the reports before it leave it."""
    written: list[Report] = []
    for one in new:
        before = trial.model_copy(update={"reports": [report for report in trial.reports if report.step < one.step]})
        rate = Course.of(before, metric).rate(one.step - 1)
        written.append(Report(step=one.step, learning_rate=rate, metrics=one.metrics))
        reports = sorted([*trial.reports, written[-1]], key=lambda report: report.step)
        trial = trial.model_copy(update={"reports": reports, "step": max(trial.step, one.step)})
    return trial, written


def _pruned(database: Database, lease: leases.Lease) -> str:
    """Why the pruner would stop a trial here, if it would, as far as the trial has got by now."""
    history = histories.of(lease.job_id)
    with database.read() as tx:
        known = history.recent(tx, goal=lease.spec.metric.goal, own=lease.trial.number)
    trial = next(one for one in known if one.number == lease.trial.number)
    if not search.may_act(lease.spec, trial):
        return ""
    return search.verdict(lease.spec, known, trial, steps=lease.steps, kept=search.fitted(lease.job_id)).stop


def _ended(tx: Session, lease: leases.Lease, state: TrialState, reason: str, *, step: int | None = None) -> Verdict:
    """End a trial for its loop, which then only hears of it."""
    step = lease.trial.step if step is None else step
    value = _last(lease.trial, lease.spec.metric)[1] if state is TrialState.STOPPED else None
    leases.finish(tx, lease, state, value=value, step=step, reason=reason)
    return Verdict(decision="stop", reason=reason, state=state, step=step)


def finish(tx: Session, job_id: str, number: int, ending: Ending) -> Trial:
    """End a trial as its loop says. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    found = held(tx, job_id, number, ending.token)
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
        ended, written = _with(trial, [said] if said else [], metric)
        at, value = _last(ended, metric)
        if value is None and state is TrialState.COMPLETE and ending.value is None:
            detail = f"no report has {metric.name}; accepted is its value at the end: report it or return it"
            raise invalid([{"pointer": "/value", "detail": detail}])
        at = at if ending.value is None or ending.step is None else ending.step
        if state is TrialState.COMPLETE and at != trial.horizon:
            state = TrialState.STOPPED
            reason = f"{ENDED_BY_LOOP} at step {step} of {trial.horizon}, with {metric.name} of step {at}"
            reason += f": {ending.reason}" if ending.reason else "; a complete run has one of its last step"
        elif state is TrialState.STOPPED:
            reason = f"{ENDED_BY_LOOP} at step {step} of {trial.horizon}" + (f": {reason}" if reason else "")
        if state is TrialState.STOPPED and written:  # so that the search has it
            leases.report(tx, lease, written, ttl=timedelta(seconds=90))
    reason = "" if state is TrialState.COMPLETE else reason or f"its loop said that it {state}"
    leases.finish(tx, lease, state, value=value, step=step, reason=reason, by="loop")


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
    trial, metric, end = lease.trial, lease.spec.metric, _end(lease.trial)
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


def _last(trial: Trial, metric: Metric) -> tuple[int, float | None]:
    """The newest report of the metric: its step and its value, which is None without any."""
    seen = [(step, value) for step, value in trial.values(metric.name) if value is not None]
    return seen[-1] if seen else (0, None)
