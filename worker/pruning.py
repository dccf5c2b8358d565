"""Asking the pruner about a running trial, with a history of the job that is fresh enough and cheap enough."""

import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from lrtune import search
from lrtune.errors import LeaseLost
from lrtune.store import Database, audits, decisions, histories, leases
from lrtune.wire.results import Report, Trial
from lrtune.wire.strategies import Forecast

FRESH_SECONDS = 10.0  # a job's other trials move slowly against one's own reports


class Pruning:
    """The pruner's view of one trial."""

    def __init__(self, database: Database, lease: leases.Lease, decided: decisions.Timed) -> None:
        self._database, self._lease, self._decided = database, lease, decided
        self._reports: list[Report] = []
        self._history: list[Trial] = []
        self._read_at = float("-inf")
        self._said: set[str] = set()

    def verdict(self, report: Report) -> str | None:
        """Why the trial should stop after this report, or None."""
        self._reports.append(report)
        trial, spec = self._lease.trial, self._lease.spec
        running = trial.model_copy(update={"reports": list(self._reports), "step": report.step})
        if not search.may_act(spec, running):
            return None
        with self._decided.deciding("verdict"):
            self._read(trial.number)
            kept = search.fitted(self._lease.job_id)
            said = search.verdict(spec, self._history, running, steps=self._lease.steps, kept=kept)
        if said.audit:
            self._once("audit", lambda tx: audits.audited(tx, self._lease, said.audit))
        elif isinstance(spec.search.pruner, Forecast) and (said.off or said.stop):
            on, reason = not said.off, said.off or said.stop
            self._once("on" if on else "off", lambda tx: audits.switched(tx, self._lease, on=on, reason=reason))
        return said.stop or None

    def _read(self, own: int) -> None:
        """The job's history, if what is known of it is old; while the database is away an older one will do."""
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            with suppress(DBAPIError):  # the heartbeat speaks of it
                with self._database.read() as tx:
                    history = histories.of(self._lease.job_id)
                    self._history = history.recent(tx, goal=self._lease.spec.metric.goal, own=[own])
                self._read_at = time.monotonic()

    def _once(self, what: str, write: Callable[[Session], None]) -> None:
        """Write into the job's log, once a trial, that it audits the forecast, or that the pruner switched."""
        if what in self._said:
            return
        with suppress(LeaseLost, DBAPIError):  # the heartbeat meets them too; with the database back it is said later
            with self._database.write() as tx:
                write(tx)
            self._said.add(what)
