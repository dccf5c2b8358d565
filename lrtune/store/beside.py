"""The other trials that are being trained, for whoever may share the beginning of one."""

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from lrtune.errors import UnreadableJob
from lrtune.store import lookup, trials
from lrtune.store.leases import Lease
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import TaskSpec, Training
from lrtune.wire.results import TrialState


@dataclass(frozen=True, slots=True)
class Beside:
    """Another trial that is being trained, with what tells whether it begins like ours."""

    id: int
    name: str
    task: TaskSpec
    training: Training
    configuration: Configuration
    until: int | None
    step: int


def beside(tx: Session, lease: Lease) -> list[Beside]:
    """The other running trials of the same seed and horizon, of whatever job, oldest first."""
    query = select(TrialRow, JobRow).join(JobRow, JobRow.seq == TrialRow.job)
    query = query.where(TrialRow.state == TrialState.RUNNING, TrialRow.id != lease.id)
    query = query.where(TrialRow.seed == lease.trial.seed, TrialRow.horizon == lease.trial.horizon)
    found = []
    for row, job in tx.execute(query.order_by(TrialRow.id)).all():
        with suppress(UnreadableJob):  # another's, which is not to end this one
            spec, trial = lookup.asked(job), trials.view(row)
            name = f"trial {trial.number}" if job.seq == lease.job else f"trial {trial.number} of {job.id}"
            found.append(Beside(row.id, name, spec.task, spec.training, trial.configuration, trial.until, trial.step))
    return found
