"""What has happened to jobs that somebody watches: heard of without asking, then read for all of them at once.

PostgreSQL says so (NOTIFY, with each line of a log); SQLite counts the commits of others in its `data_version`, which
is read without a transaction. PostgreSQL does not say how far running trials are: whoever wants that asks now and then,
because a NOTIFY with each report would make all reports wait for each other's commits.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from lrtune.store.database import Database
from lrtune.store.tables import JobRow, TrialRow
from lrtune.wire.results import JobState, TrialState

CHANNEL = "lrtune_events"


def said() -> ColumnElement[Any]:
    """What a statement on PostgreSQL returns, so that with its commit those who listen hear of it."""
    return func.pg_notify(CHANNEL, "")


class Pulse(NamedTuple):
    """What changes whenever a job does: its state, the length of its log, how many steps its running trials have."""

    state: JobState
    events: int
    steps: int


def pulses(tx: Session, job_ids: Collection[str], steps: Collection[str]) -> Mapping[str, Pulse]:
    """Those of some jobs that there are; the steps of running trials are counted of those in `steps` alone."""
    rows = tx.execute(select(JobRow.id, JobRow.state, JobRow.events).where(JobRow.id.in_(job_ids))).all()
    trained: dict[str, int] = {}
    if steps:
        query = select(JobRow.id, func.sum(TrialRow.step)).join(TrialRow, TrialRow.job == JobRow.seq)
        query = query.where(JobRow.id.in_(steps), TrialRow.state == TrialState.RUNNING).group_by(JobRow.id)
        trained = {job_id: int(count or 0) for job_id, count in tx.execute(query).all()}
    return {row.id: Pulse(JobState(row.state), row.events, trained.get(row.id, 0)) for row in rows}


class Ear:
    """Hears whether anything was committed. One connection of its own, opened when it is first needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None
        self._version = -1

    def heard(self) -> bool:
        """Whether something may have happened since it was asked last. Raises OperationalError; then it is deaf."""
        try:
            if self._connection is None:
                self._connection = self._database.apart()
                if not self._database.lite:
                    self._connection.autocommit = True
                    self._connection.execute(f"listen {CHANNEL}")
                return True
            if not self._database.lite:
                return bool(list(self._connection.notifies(timeout=0)))
            before, self._version = self._version, self._connection.execute("pragma data_version").fetchone()[0]
            return before != self._version
        except self._database.errors as error:
            self.close()
            raise OperationalError("listen", None, error) from error

    def close(self) -> None:
        """Hear no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
