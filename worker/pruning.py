"""Asking the pruner about a running trial, with a history of the job that is fresh enough and cheap enough."""

import time

from sqlalchemy.exc import DBAPIError

from lrtune import search
from lrtune.results import Report, Trial
from lrtune.store import Database, leases, trials
from lrtune.strategies import NoPruner

FRESH_SECONDS = 10.0  # a job's other trials move slowly against one's own reports


class Pruning:
    """The pruner's view of one trial."""

    def __init__(self, database: Database, lease: leases.Lease) -> None:
        self._database, self._lease = database, lease
        self._asks = not isinstance(lease.spec.search.pruner, NoPruner) and lease.trial.role == "search"
        self._reports: list[Report] = []
        self._history: list[Trial] = []
        self._read_at = float("-inf")

    def verdict(self, report: Report) -> str | None:
        """Why the trial should stop after this report, or None."""
        if not self._asks:
            return None
        self._reports.append(report)
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._refresh()
        trial = self._lease.trial.model_copy(update={"reports": list(self._reports), "step": report.step})
        return search.stop_reason(self._lease.spec, self._history, trial)

    def _refresh(self) -> None:
        try:
            with self._database.read() as tx:
                self._history = trials.history(tx, self._lease.job_id)
            self._read_at = time.monotonic()
        except DBAPIError:
            return  # an older history will do while the database is away; the heartbeat speaks of it
