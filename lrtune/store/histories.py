"""A job's trials for those who ask again and again: only what has changed since is read.

Every change of a trial stands in its job's log, but for the reports of those that run and for what a job's end does to
the rest, which is one line about no trial. The log's numbers are in the order of commits, so nothing is missed.
"""

from collections.abc import Collection
from functools import lru_cache

from sqlalchemy import and_, false, select
from sqlalchemy.orm import Session

from lrtune.errors import UnknownJob
from lrtune.store import trials
from lrtune.store.tables import EventRow, JobRow, TrialRow
from lrtune.wire.results import OPEN, Trial

AT_ONCE = 500  # changed trials: where there are more, all are read


class History:
    """The trials of one job, as far as this process has read them."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._read: tuple[int, dict[int, Trial]] = (0, {})

    def read(self, tx: Session, running: Collection[int] | None = None) -> list[Trial]:
        """Every trial with its reports and stages, by number. Raises UnknownJob.

        With `running` the reports of these are new, and those of all others that run as they were when they were read
        last: dozens of trials report in the time that one question takes.
        """
        after, known = self._read
        newer = and_(EventRow.job == JobRow.seq, EventRow.number > after) if after else false()
        query = select(JobRow.seq, JobRow.events, EventRow.number, EventRow.trial).outerjoin(EventRow, newer)
        rows = tx.execute(query.where(JobRow.id == self._job_id)).all()
        if not rows:
            raise UnknownJob(f"there is no job {self._job_id!r}")
        job, events = rows[0].seq, rows[0].events
        changed = {row.trial for row in rows if row.number is not None}
        opened = {number for number, trial in known.items() if trial.state in OPEN} if running is None else running
        some = changed | {*opened}
        if after == 0 or None in changed or len(some) > AT_ONCE:
            known, which = {}, TrialRow.job == job
        else:
            which = and_(TrialRow.job == job, TrialRow.number.in_(some))
        known = known | {trial.number: trial for trial in trials.read(tx, which)}
        self._read = events, known  # of two who read at once either will do
        return [known[number] for number in sorted(known)]


@lru_cache(maxsize=4)
def of(job_id: str) -> History:
    """What this process has read of a job; of the few that it was asked for last."""
    return History(job_id)
