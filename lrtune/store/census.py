"""How many there are of each kind, and how long they wait, for whoever watches the service.

Every number is read from what is open or counted already, so that a scrape costs the same however much has ended.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from lrtune.store import decisions, tallies, workers
from lrtune.store.database import clock
from lrtune.store.tables import AttemptRow, JobRow, TrialRow
from lrtune.store.workers import Needs
from lrtune.wire.job import EXTERNAL
from lrtune.wire.results import OPEN, JobState, TrialState

LATELY = timedelta(hours=1)  # in which leases were lost
_NEEDS = JobRow.task, JobRow.device, JobRow.memory_gb
_WAITS = and_(JobRow.state == JobState.QUEUED, JobRow.task != EXTERNAL)


@dataclass(frozen=True, slots=True)
class Census:
    """Jobs and trials by state, every state named; workers heard of lately, all and those that train.

    `wanted` is a worker for each trial that waits or runs, and one for each job that goes on: it may propose another.
    `waiting`: seconds since the oldest job that is queued was submitted; `lost`: leases that ran out in the last hour;
    `unserved`: jobs that wait and that no worker can train; `decisions`: what those of workers took.
    """

    jobs: Mapping[JobState, int]
    trials: Mapping[TrialState, int]
    workers: int
    busy: int
    wanted: int
    waiting: float
    lost: int
    unserved: int
    decisions: Mapping[str, decisions.Spent]


def census(tx: Session) -> Census:
    """Count everything."""
    jobs = {JobState(s): n for s, n in tx.execute(select(JobRow.state, func.count()).group_by(JobRow.state))}
    trials, alive = tallies.by_state(tx), workers.alive(tx)
    return Census(
        jobs={state: jobs.get(state, 0) for state in JobState},
        trials={state: trials.get(state, 0) for state in TrialState},
        workers=len(alive),
        busy=sum(one.trial is not None for one in alive),
        wanted=wanted(tx),
        waiting=waiting(tx),
        lost=lost(tx),
        decisions=decisions.spent(tx),
        unserved=sum(count for count, _ in _lacking(tx).values()),
    )


def wanted(tx: Session) -> int:
    """How many workers would find something to train; jobs whose loops are elsewhere need none."""
    ours = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)) & (JobRow.task != EXTERNAL)
    trials = select(func.count()).select_from(TrialRow).join(JobRow, JobRow.seq == TrialRow.job)
    open_trials = tx.scalar(trials.where(ours, TrialRow.state.in_(OPEN))) or 0
    return open_trials + (tx.scalar(select(func.count()).select_from(JobRow).where(ours)) or 0)


def waiting(tx: Session) -> float:
    """For how many seconds the oldest job that is queued has waited."""
    oldest = tx.scalar(select(func.min(JobRow.created_at)).where(JobRow.state == JobState.QUEUED))
    return 0.0 if oldest is None else max(0.0, (clock(tx) - oldest).total_seconds())


def lost(tx: Session) -> int:
    """How many leases ran out in the last hour."""
    lately = AttemptRow.ended_at >= clock(tx) - LATELY
    query = select(func.count()).select_from(AttemptRow).where(AttemptRow.outcome == "lost", lately)
    return tx.scalar(query) or 0


def unserved(tx: Session) -> Iterator[tuple[str, str]]:
    """The queued jobs that no worker heard of lately can train, each with why."""
    lacking = _lacking(tx)
    query = select(JobRow.id, *_NEEDS).where(_WAITS).order_by(JobRow.seq)
    for job, task, device, memory in tx.execute(query) if lacking else ():
        if (needs := Needs(task, device, memory)) in lacking:
            yield job, lacking[needs][1]


def _lacking(tx: Session) -> dict[Needs, tuple[int, str]]:
    """What queued jobs need that no worker heard of lately has: how many jobs, and why."""
    living, found = workers.alive(tx), dict[Needs, tuple[int, str]]()
    query = select(*_NEEDS, func.count()).where(_WAITS).group_by(*_NEEDS)
    for task, device, memory, count in tx.execute(query):
        if why := workers.lacking(needs := Needs(task, device, memory), living):
            found[needs] = count, why
    return found
