"""Jobs that were done elsewhere, stored as they ended there."""

import hashlib
from datetime import datetime

from sqlalchemy import insert
from sqlalchemy.orm import Session

from lrtune.store import events, jobs, lookup, tallies
from lrtune.store.database import clock
from lrtune.store.tables import ReportRow, TrialRow
from lrtune.wire.imports import ImportedJob
from lrtune.wire.job import AdmittedJob
from lrtune.wire.people import ADMIN
from lrtune.wire.results import Job, JobState, TrialState


def create(
    tx: Session,
    spec: AdmittedJob,
    imported: ImportedJob,
    *,
    owner: str = ADMIN,
    only: str | None = None,
    idempotency_key: str | None = None,
    now: datetime | None = None,
) -> tuple[Job, bool]:
    """Store an admitted job with its trials, succeeded; (the job, whether it is new). Raises IdempotencyKeyReused."""
    trials = hashlib.sha256(imported.model_dump_json(include={"trials"}).encode()).hexdigest()
    now = now or clock(tx)
    job, new = jobs.create(
        tx,
        spec,
        owner=owner,
        only=only,
        idempotency_key=idempotency_key,
        beside=trials,
        action="job-imported",
        now=now,
    )
    if not new:
        return job, False
    row = lookup.job(tx, job.id)
    row.started_at, row.decisions = now, len(imported.trials)
    for number, trial in enumerate(imported.trials):
        fields = trial.model_dump(mode="json", exclude={"reports"})
        times = {"created_at": now, "started_at": now, "finished_at": now}
        added = TrialRow(job=row.seq, number=number, decision=number, **times, **fields)
        tx.add(added)
        tx.flush()
        if trial.reports:
            tx.execute(insert(ReportRow), [{"trial": added.id, **report.model_dump()} for report in trial.reports])
    tallies.ended(tx, TrialRow.job == row.seq)
    words = f"{len(imported.trials)} trials imported from {imported.source}"
    pruned = [number for number, trial in enumerate(imported.trials) if trial.state is TrialState.STOPPED]
    events.add(tx, row.seq, "job-imported", words, now=now, pruned=pruned)
    jobs.end(tx, job.id, JobState.SUCCEEDED, reason=words, now=now)
    return jobs.get(tx, job.id), True
