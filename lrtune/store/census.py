"""How many there are of each kind, for whoever watches the service."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.store import tallies, workers
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.job import EXTERNAL
from lrtune.wire.results import OPEN, JobState, TrialState


@dataclass(frozen=True, slots=True)
class Census:
    """Jobs and trials by state, every state named, the workers heard of lately, and how many there could be.

    `wanted` is a worker for each trial that waits or runs, and one for each job that goes on: it may propose another.
    """

    jobs: Mapping[JobState, int]
    trials: Mapping[TrialState, int]
    workers: int
    wanted: int


def census(tx: Session) -> Census:
    """Count everything."""
    jobs = {JobState(s): n for s, n in tx.execute(select(JobRow.state, func.count()).group_by(JobRow.state))}
    trials = tallies.by_state(tx)
    return Census(
        jobs={state: jobs.get(state, 0) for state in JobState},
        trials={state: trials.get(state, 0) for state in TrialState},
        workers=len(workers.alive(tx)),
        wanted=wanted(tx),
    )


def wanted(tx: Session) -> int:
    """How many workers would find something to train; jobs whose loops are elsewhere need none."""
    ours = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)) & (JobRow.task != EXTERNAL)
    trials = select(func.count()).select_from(TrialRow).join(JobRow, JobRow.seq == TrialRow.job)
    open_trials = tx.scalar(trials.where(ours, TrialRow.state.in_(OPEN))) or 0
    return open_trials + (tx.scalar(select(func.count()).select_from(JobRow).where(ours)) or 0)
