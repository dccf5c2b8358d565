"""What loops of the user's own report, and whether to go on: written down for all that report at the same moment.

No transaction is open while the pruner thinks, and it is nobody's turn to write: see `turns.py`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.newest import Newest
from app.problems import invalid
from app.turns import Turns, one_by_one
from lrtune import search
from lrtune.analysis.prefixes import Course
from lrtune.errors import Invalid, Rejection, Unavailable
from lrtune.schedules import Plateau
from lrtune.store import Database, checkpoints, events, histories, holds, leases
from lrtune.store.database import AWAY
from lrtune.store.holds import Heard, Held, Shown, held, held_each, remark
from lrtune.wire.external import MOST_REPORTS, RATES, Batch, Sent, Verdict, elsewhere, misnamed, misplaced
from lrtune.wire.job import AdmittedJob, Metric
from lrtune.wire.results import JobState, Report, Trial, TrialState, report_points

log = logging.getLogger("lrtune.server")
_newest = Newest()


class Said(NamedTuple):
    """A batch of reports as it came in."""

    shown: Shown
    batch: Batch


class Look(NamedTuple):
    """What a batch is to write, and what its loop is to hear."""

    heard: Heard
    verdict: Verdict


class Taken(NamedTuple):
    """What came of a batch of reports: the verdict so far, and the trial as they leave it where some were new."""

    lease: leases.Lease
    verdict: Verdict
    trial: Trial | None


async def take(turns: Turns, job_id: str, number: int, batch: Batch) -> Verdict:
    """Write reports, and say whether to go on. Raises UnknownJob, NotExternal, UnknownTrial, LeaseLost, Invalid."""
    said = Said(Shown(job_id, number, batch.token), batch)
    found = await turns.together(("reports",), lambda several: turns.write(_taken_together, several), said)
    if found is None:
        found = await turns.write(_taken_alone, said)
    lease, verdict, trial = found
    if trial is None or verdict.decision != "continue" or not search.may_act(lease.spec, trial):
        return verdict
    try:
        reason = await turns.together(
            (job_id, "verdict"),
            lambda several: turns.think("verdict", _pruned, lease.spec, job_id, lease.steps, several),
            (number, trial.step),
        )
    except Unavailable:  # the reports are written, and the pruner is asked again at the next
        return verdict
    return await turns.write(_stopped, said, reason) if reason else verdict


def _taken_together(database: Database, said: Sequence[Said]) -> Sequence[Taken | None]:
    """What came of each, all written in one transaction; None for those that need one of their own.

    That are those of which more is to be written than reports, or that somebody else writes to: this one holds many
    trials, and must wait for nobody.
    """
    try:
        with database.write() as tx:
            known = _newest.enough(one.batch for one in said)
            found = held_each(tx, [one.shown for one in said], wait=False, known=known)
            first = {one.shown: place for place, one in reversed(list(enumerate(said)))}
            looks = [
                _plain(held, one.batch) if isinstance(held, Held) and first[one.shown] == place else None
                for place, (one, held) in enumerate(zip(said, found, strict=True))
            ]
            holds.write(tx, heard := [look.heard for look in looks if look])
        _newest.remember(heard)
        return [look and _came_to(look, look.verdict) for look in looks]
    except AWAY:
        raise
    except Exception:  # one of them cannot be written: each by itself, the others can
        log.exception("reports are written one by one")
        return [None] * len(said)


def _plain(found: Held, batch: Batch) -> Look | None:
    """What a batch is to write where that is nothing but reports."""
    if found.over or batch.start is not None or batch.note is not None:
        return None
    try:
        look = _looked(found, batch)
    except Invalid:
        return None
    return None if look.verdict.decision == "stop" else look


def _taken_alone(database: Database, said: Said) -> Taken:
    """What came of a batch, whatever there is to write of it."""
    with database.write() as tx:
        found, batch = held(tx, said.shown), said.batch
        if verdict := _over(found):
            return Taken(found.lease, verdict, None)
        if batch.start is not None:
            found = replace(found, lease=_began(tx, found.lease, batch.start))
        if batch.note is not None:
            remark(tx, found.lease, batch.note)
        look = _looked(found, batch)
        holds.write(tx, [look.heard])
        taken = _came_to(look, _carried_out(tx, found.lease, look.verdict))
    _newest.remember([look.heard])
    return taken


def _came_to(look: Look, verdict: Verdict) -> Taken:
    return Taken(look.heard.held.lease, verdict, look.heard.trial if look.heard.reports else None)


def _carried_out(tx: Session, lease: leases.Lease, verdict: Verdict) -> Verdict:
    """A verdict, and what it makes of the trial."""
    if verdict.state is TrialState.DIVERGED:
        return _ended(tx, lease, TrialState.DIVERGED, verdict.reason, step=verdict.step)
    if verdict.state is TrialState.WAITING and checkpoints.of(tx, lease.token):
        reason = "the job is paused; its trial is kept, and goes on from there when the job does"
        return verdict.model_copy(update={"decision": "pause", "reason": reason, "state": TrialState.RUNNING})
    if verdict.state is TrialState.WAITING:
        leases.release(tx, lease, reason=verdict.reason)
    return verdict


def _stopped(database: Database, said: Said, reason: str) -> Verdict:
    """The trial stopped, unless it has ended meanwhile."""
    with database.write() as tx:
        found = held(tx, said.shown)
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
    why = "its loop could not go on from the checkpoint"
    kept = max((one.ended_at for one in leases.again(tx, lease).trial.stages if one.ended_at), default=None)
    if kept is not None and events.has_been_over(tx, lease.job, since=kept):
        why += "; what a job's loops have kept they delete when it is over, as this one was before it was extended"
    return leases.begin_again(tx, lease, start, why=why)


def _new(held: Held, batch: Batch) -> list[Sent]:
    """The reports of a batch that were not known, by step. Raises Invalid for a batch that cannot be."""
    lease = held.lease
    metric, known = lease.spec.metric.name, {report.step for report in lease.trial.reports}
    wrong = _out_of_place(lease.trial, batch.reports) + _out_of_range(lease.spec.metric, batch.reports)
    newest = max((one.step for one in batch.reports), default=lease.trial.start)
    if newest < lease.trial.start:
        detail = f'{elsewhere(newest, lease.trial.start)}, or say with "start" where the training really began'
        wrong.append({"pointer": "/reports/0/step", "detail": detail})
    measured = {name for one in lease.trial.reports for name in one.metrics}
    measured |= {name for one in batch.reports for name in one.metrics}
    if batch.reports and metric not in measured and not held.known:
        first = batch.reports[0]
        wrong.append({"pointer": "/reports/0/metrics", "detail": misnamed(first.step, first.metrics, metric)})
    if wrong:
        raise invalid(wrong)
    new = sorted((one for one in batch.reports if one.step not in known), key=lambda one: one.step)
    if held.reported + len(new) <= MOST_REPORTS:
        return new
    asked = {*report_points(lease.trial.horizon), end_of(lease.trial)}
    room = max(0, MOST_REPORTS - held.reported)
    return [one for place, one in enumerate(new) if place < room or one.step in asked]


def _out_of_place(trial: Trial, sent: Sequence[Sent]) -> list[Rejection]:
    wrong, seen = list[Rejection](), set[int]()
    for place, one in enumerate(sent):
        pointer = f"/reports/{place}/step"
        if one.step > trial.horizon:
            wrong.append({"pointer": pointer, "detail": f"found {one.step}; this trial has {trial.horizon} steps"})
        elif one.step > end_of(trial):
            detail = f"found {one.step}; this stage ends at step {end_of(trial)}: keep a checkpoint there, and pause"
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


def _looked(found: Held, batch: Batch) -> Look:
    """What a batch is to write, and what needs no pruner: divergence, a pause, other rates. Raises Invalid."""
    lease, metric = found.lease, found.lease.spec.metric
    trial, written = with_reports(lease.trial, _new(found, batch), metric)
    heard = Heard(found, trial, written, timedelta(seconds=batch.lease_seconds))
    newest = max((one.step for one in lease.trial.reports if metric.name in one.metrics), default=0)
    ahead = [one for one in written if one.step > newest]  # an older one fills its place, and no more
    bad = next((one for one in ahead if one.metrics.get(metric.name, 0.0) is None), None)
    if bad is not None:
        reason = f"{metric.name} became not finite at step {bad.step} (learning rate {bad.learning_rate:.3g})"
        return Look(heard, Verdict(decision="stop", reason=reason, state=TrialState.DIVERGED, step=trial.step))
    if trial.until is not None and trial.step >= trial.until:
        reason = f"trained until step {trial.until} of {trial.horizon}, as planned"
        return Look(heard, Verdict(decision="pause", reason=reason, state=TrialState.RUNNING, step=trial.step))
    if found.news is JobState.PAUSED and trial.step < trial.horizon:  # a whole run only has to be ended
        reason = "the job is paused; its trial waits, and starts again when the job goes on"
        return Look(heard, Verdict(decision="stop", reason=reason, state=TrialState.WAITING, step=trial.step))
    rates = _new_rates(trial, batch, metric)
    return Look(heard, Verdict(decision="continue", state=TrialState.RUNNING, step=trial.step, learning_rates=rates))


def _new_rates(trial: Trial, batch: Batch, metric: Metric) -> list[float] | None:
    """The rates from here on, where the batch has changed them.

    Also where all of it was known: the answer that had the new rates may have been lost.
    """
    if not isinstance(trial.configuration.schedule, Plateau):  # no other looks at what is reported
        return None
    sent = {one.step for one in batch.reports}
    before = trial.model_copy(update={"reports": [one for one in trial.reports if one.step not in sent]})
    course = Course.of(trial, metric)
    return course.rates(trial.step, RATES) if course.curve != Course.of(before, metric).curve else None


def with_reports(trial: Trial, new: Sequence[Sent], metric: Metric) -> tuple[Trial, list[Report]]:
    """A trial with more reports, and those, each with the rate of its last step as the reports before it leave it."""
    written: list[Report] = []
    for one in new:
        before = trial.model_copy(update={"reports": [report for report in trial.reports if report.step < one.step]})
        rate = Course.of(before, metric).rate(one.step - 1)
        written.append(Report(step=one.step, learning_rate=rate, metrics=one.metrics))
        reports = sorted([*trial.reports, written[-1]], key=lambda report: report.step)
        trial = trial.model_copy(update={"reports": reports, "step": max(trial.step, one.step)})
    return trial, written


def _pruned(
    database: Database, spec: AdmittedJob, job_id: str, steps: int, asked: Sequence[tuple[int, int]]
) -> list[str | Exception]:
    """Why the pruner would stop each of these trials of a job, by number, after so many steps, if it would.

    What goes wrong with one is its own affair.
    """
    upto = dict(asked)
    with database.read() as tx:
        history = histories.of(job_id).recent(
            tx, goal=spec.metric.goal, own=upto.keys(), others=search.compares_running(spec)
        )
    running = [_upto(trial, upto[trial.number]) for trial in history if trial.number in upto]
    running = [trial for trial in running if search.may_act(spec, trial)]

    def why(some: Sequence[Trial]) -> list[str]:
        found = search.verdicts(spec, history, some, steps=steps, kept=search.fitted(job_id))
        return [one.stop for one in found]

    reasons = {trial.number: one for trial, one in zip(running, one_by_one(why, running), strict=True)}
    return [reasons.get(number, "") for number, _ in asked]


def _upto(trial: Trial, step: int) -> Trial:
    """A trial without what it has reported beyond a step."""
    reports = [report for report in trial.reports if report.step <= step]
    return trial.model_copy(update={"reports": reports, "step": min(trial.step, step)})


def _ended(tx: Session, lease: leases.Lease, state: TrialState, reason: str, *, step: int | None = None) -> Verdict:
    """End a trial for its loop, which then only hears of it."""
    step = lease.trial.step if step is None else step
    value = last_value(lease.trial, lease.spec.metric)[1] if state is TrialState.STOPPED else None
    leases.finish(tx, lease, state, value=value, step=step, reason=reason)
    return Verdict(decision="stop", reason=reason, state=state, step=step)


def end_of(trial: Trial) -> int:
    """The step at which the stage at hand ends."""
    return trial.until or trial.horizon


def last_value(trial: Trial, metric: Metric) -> tuple[int, float | None]:
    """The newest report of the metric: its step and its value, which is None without any."""
    seen = [(step, value) for step, value in trial.values(metric.name) if value is not None]
    return seen[-1] if seen else (0, None)
