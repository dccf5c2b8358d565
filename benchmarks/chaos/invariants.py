"""What must hold of a database after whatever has happened, each as SQL that finds who breaks it."""

import json
from collections.abc import Collection, Iterable
from datetime import timedelta

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from lrtune.store.tables import AttemptRow

OFFENCES = {
    "a job that has not succeeded": "select id, state, reason from jobs where state <> 'succeeded'",
    "a trial that is still open": (
        "select job, number, state from trials where state in ('waiting', 'running', 'paused') or token is not null"
    ),
    "a trial that has failed": "select job, number, reason from trials where state = 'failed'",
    "trials whose numbers have gaps": (
        "select job, count(*), max(number) from trials group by job having max(number) + 1 <> count(*)"
    ),
    "an attempt without an end": "select token, worker from attempts where ended_at is null",
    "two attempts at a trial at once": (
        "select a.trial, a.worker, b.worker from attempts a join attempts b on a.trial = b.trial and a.token < b.token "
        "where a.started_at < b.ended_at and b.started_at < a.ended_at"
    ),
    "a trial that has ended twice": (
        "select job, trial, count(*) from events where kind in ('trial-complete', 'trial-diverged', 'trial-failed') "
        "group by job, trial having count(*) > 1"
    ),
    "an end that is not in the log": (
        "select t.job, t.number, t.state from trials t where not exists "
        "(select 1 from events e where e.job = t.job and e.trial = t.number and e.kind = 'trial-' || t.state)"
    ),
    "a log with gaps": (
        "select j.id, j.events, count(e.number), max(e.number) from jobs j left join events e on e.job = j.seq "
        "group by j.id, j.events having j.events <> count(e.number) or j.events <> coalesce(max(e.number), 0)"
    ),
    "a complete trial that lacks reports": (
        "select t.job, t.number, count(r.step) from trials t left join reports r on r.trial = t.id "
        "where t.state = 'complete' and t.horizon >= 20 group by t.job, t.number having count(r.step) < 20"
    ),
    "a report beyond its trial": (
        "select t.job, t.number, r.step from trials t join reports r on r.trial = t.id where r.step > t.step"
    ),
    "progress that is not the sum of its trials": (
        "select j.id, j.cost, j.counted from (select jobs.id as id, "
        "(select coalesce(sum(step - reused), 0) from trials where job = jobs.seq) as cost, "
        "(select coalesce(sum(steps), 0) from tallies where job = jobs.seq) as counted from jobs) j "
        "where j.cost <> j.counted"
    ),
    "trials that are not counted as they ended": (
        "select t.job, t.role, t.state, count(*) from trials t left join tallies c "
        "on c.job = t.job and c.role = t.role and c.state = t.state "
        "group by t.job, t.role, t.state, c.trials having count(*) <> coalesce(c.trials, 0)"
    ),
    "a trial that cost more than was trained": (
        "select t.job, t.number, t.step - t.reused, sum(a.cost) from trials t join attempts a on a.trial = t.id "
        "group by t.id, t.job, t.number, t.step, t.reused having t.step - t.reused > sum(a.cost)"
    ),
}
SIGNED = (
    "select t.job, t.number, r.step, r.metrics, a.worker, a.start, a.step as reached from reports r "
    "join trials t on t.id = r.trial join jobs j on j.seq = t.job left join attempts a on a.trial = t.id "
    "where j.task = 'external' order by t.job, t.number, r.step"
)


def broken(
    tx: Session, *, strangers: Iterable[int] = (), lease: float = 0.0, expired: Collection[str] = ()
) -> dict[str, list[str]]:
    """What is not as it must be, with those that break it; `strangers` are processes that may train nothing.

    A lease is for so many seconds, but where a fault has ended it, whose token is among `expired`.
    """
    found = {name: [str(tuple(row)) for row in tx.execute(text(sql))] for name, sql in OFFENCES.items()}
    found["a report by somebody who did not hold the trial there"] = _foreign(tx)
    found["a lease that was taken away before its end"] = _robbed(tx, timedelta(seconds=lease), expired)
    workers = {name for (name,) in tx.execute(text("select distinct worker from attempts"))}
    found["a trial of a worker whose clock is off"] = [
        name for name in workers for pid in strangers if f"-{pid}-" in name
    ]
    return {name: rows for name, rows in found.items() if rows}


def counted(tx: Session) -> dict[str, int]:
    """How much there is that could have broken."""
    asked = {
        "jobs": "jobs",
        "trials": "trials",
        "reports": "reports",
        "attempts": "attempts",
        "attempts that were lost": "attempts where outcome = 'lost'",
        "attempts that were released": "attempts where outcome = 'released'",
    }
    return {name: tx.execute(text(f"select count(*) from {source}")).scalar_one() for name, source in asked.items()}


def _robbed(tx: Session, lease: timedelta, expired: Collection[str]) -> list[str]:
    """Attempts that began less than a lease before they were lost, with no fault."""
    lost = select(AttemptRow.token, AttemptRow.worker, AttemptRow.started_at, AttemptRow.ended_at)
    lost = lost.where(AttemptRow.outcome == "lost", AttemptRow.token.not_in(expired))
    return [str((token, worker)) for token, worker, start, end in tx.execute(lost) if end and end - start < lease]


def _foreign(tx: Session) -> list[str]:
    """Reports that are signed by a process none of whose attempts covers their step."""
    signed: dict[tuple[int, int, int, int], bool] = {}
    for job, number, step, metrics, worker, start, reached in tx.execute(text(SIGNED)):
        seen = json.loads(metrics) if isinstance(metrics, str) else metrics
        key = (job, number, step, int(seen["who"]))
        held = worker is not None and worker.endswith(f"-{key[-1]}") and start < step <= reached
        signed[key] = signed.get(key, False) or held
    return [str(key) for key, held in signed.items() if not held]
