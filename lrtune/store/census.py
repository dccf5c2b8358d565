"""How many there are of each kind, for whoever watches the service."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lrtune.store import tallies, workers
from lrtune.store.tables import JobRow
from lrtune.wire.results import JobState, TrialState


@dataclass(frozen=True, slots=True)
class Census:
    """Jobs and trials by state, every state named, and the workers heard of lately."""

    jobs: Mapping[JobState, int]
    trials: Mapping[TrialState, int]
    workers: int


def census(tx: Session) -> Census:
    """Count everything."""
    jobs = {JobState(s): n for s, n in tx.execute(select(JobRow.state, func.count()).group_by(JobRow.state))}
    trials = tallies.by_state(tx)
    return Census(
        jobs={state: jobs.get(state, 0) for state in JobState},
        trials={state: trials.get(state, 0) for state in TrialState},
        workers=len(workers.alive(tx)),
    )
