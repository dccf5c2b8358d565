"""Staying alive while a trial trains: a thread renews the lease, writes reports in batches and hears news.

The training loop asks `should_stop()` at every step. The thread never dies unseen: whatever ends it stands in
`failure`, and closing raises it.
"""

import logging
import threading
import time
from contextvars import copy_context
from datetime import timedelta

from sqlalchemy.exc import DBAPIError

from lrtune.errors import LeaseLost
from lrtune.store import Database, leases, workers
from lrtune.wire.results import JobState, Report

BEAT_SECONDS = 1.0  # how often reports are written; a lease is renewed each sixth of its time
log = logging.getLogger("lrtune.worker")


class Heartbeat:
    """The hold on one trial, kept alive in a thread."""

    def __init__(self, database: Database, lease: leases.Lease, *, worker: str, ttl: timedelta) -> None:
        self.lost = False
        self.failure: BaseException | None = None
        self._paused = False
        self._database, self._lease, self._worker, self._ttl = database, lease, worker, ttl
        self._reports: list[Report] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="heartbeat", daemon=True)

    def start(self) -> None:
        """Be alive from here on."""
        self._thread.start()

    def close(self, *, quietly: bool) -> None:
        """Be alive no longer. Raises what the thread has died of, if not `quietly`."""
        self._over.set()
        self._thread.join()
        if self.failure is not None and not quietly:
            raise self.failure

    def add(self, report: Report) -> None:
        """Put a report into the next batch."""
        with self._lock:
            self._reports.append(report)

    def take(self) -> list[Report]:
        """The reports that are not written yet; the caller writes them."""
        with self._lock:
            taken, self._reports = self._reports, []
        return taken

    def should_stop(self) -> str | None:
        """Why the training should stop now, or None."""
        if self.failure is not None:
            return f"the heartbeat failed: {self.failure}"
        if self.lost:
            return "the lease is lost"
        return "the job was paused" if self._paused else None

    def _run(self) -> None:
        renewed = time.monotonic()
        try:
            while not self._over.wait(min(BEAT_SECONDS, self._ttl.total_seconds() / 6)):
                due = time.monotonic() - renewed > self._ttl.total_seconds() / 6
                if (self._reports or due) and self._beat():
                    renewed = time.monotonic()
        except LeaseLost:
            self.lost = True
        except Exception as failure:
            log.exception("the heartbeat stopped")
            self.failure = failure

    def _beat(self) -> bool:
        """One sign of life with what there is to write; False while the database is away, and nothing is lost."""
        batch = self.take()
        try:
            with self._database.write() as tx:
                workers.seen(tx, self._worker, job=self._lease.job_id, trial=self._lease.trial.number)
                if batch:
                    news = leases.report(tx, self._lease, batch, ttl=self._ttl)
                else:
                    news = leases.renew(tx, self._lease, ttl=self._ttl)
        except DBAPIError as error:
            log.warning("the database does not answer, trying again: %s", str(error.orig).splitlines()[0])
            with self._lock:
                self._reports = batch + self._reports
            return False
        self._paused = news is JobState.PAUSED
        return True
