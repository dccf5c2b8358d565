"""One worker's hold on a trial, from its claim to how it ends in the database; a lost lease is dropped quietly."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from lrtune import logs
from lrtune.errors import LeaseLost, LrtuneError
from lrtune.store import Database, datasets, decisions, leases
from lrtune.store.database import AWAY
from lrtune.wire.results import Report, TrialState
from worker.heartbeat import Heartbeat
from worker.parallel import Died
from worker.pruning import Pruning
from worker.sharing import Blocked
from worker.stage import Outcome
from worker.tasks import own
from worker.traces import theirs, words
from worker.trainer import Interrupted

log = logging.getLogger("lrtune.worker")


@dataclass(frozen=True, slots=True)
class Means:
    """What a worker has to hold trials with; `write` does a verb in a transaction, again while the database is away."""

    worker: str
    database: Database
    ttl: timedelta
    stop: threading.Event
    write: Callable[[Callable[[Session], Any]], Any]
    decided: decisions.Timed


class Attempt:
    """A lease, alive while its trial trains. Whoever begins one ends it, with an outcome or with what was raised."""

    def __init__(self, means: Means, lease: leases.Lease) -> None:
        self.lease, self._means = lease, means
        self._heartbeat = Heartbeat(means.database, lease, worker=means.worker, ttl=means.ttl)
        self._pruning = Pruning(means.database, lease, means.decided)
        self._heartbeat.start()
        trial = lease.trial
        self._log(f"trains from step {trial.start} to {trial.until or trial.horizon} of {trial.horizon}")

    def on_report(self, report: Report) -> str | None:
        """Write a report soon; why the trial should stop after it, or None."""
        self._heartbeat.add(report)
        return self._pruning.verdict(report)

    def should_stop(self) -> str | None:
        """Why the training should stop now, or None."""
        return "the worker was asked to stop" if self._means.stop.is_set() else self._heartbeat.should_stop()

    def say(self, message: str) -> None:
        """Write a line about the trial into its job's log. Raises LeaseLost."""
        self._means.write(lambda tx: leases.note(tx, self.lease, "trial-noted", message))

    def say_once(self, message: str) -> None:
        """The same, of what holds for all trials of the job: where it is not there yet."""
        self._means.write(lambda tx: leases.note_once(tx, self.lease, message))

    def end(self, how: Outcome | BaseException) -> None:
        """Let go of the trial: finished, released, lost or failed. Raises what the heartbeat died of."""
        self._heartbeat.close(quietly=isinstance(how, Interrupted | Blocked | Died | LeaseLost))
        try:
            if isinstance(how, Died):
                self._lose(how)
            elif isinstance(how, Interrupted | Blocked):
                self._release(how)
            elif isinstance(how, LeaseLost):
                raise how
            else:
                self._finish(how if isinstance(how, Outcome) else self._failed(how))
        except LeaseLost:
            self._log("is no longer ours")

    def _log(self, what: str) -> None:
        """A line of the worker's own log: one when a stage begins, one when it ends."""
        job, trial = self.lease.job_id, self.lease.trial.number
        with logs.about(job=job, trial=trial):  # of trials that train together, this one
            log.info("trial %d of %s %s", trial, job, what)

    def _failed(self, error: BaseException) -> Outcome:
        """What a trial comes to whose task raised something; it may even call sys.exit()."""
        start = self.lease.trial.start
        if isinstance(error, LrtuneError):
            return Outcome(TrialState.FAILED, None, str(error), start)
        log.error("trial %s of %s failed", self.lease.trial.number, self.lease.job_id, exc_info=error)
        own.forget()
        return Outcome(TrialState.FAILED, None, words(error), start, traceback=theirs(error))

    def _finish(self, outcome: Outcome) -> None:
        """Write what has been reported, and how it ended."""
        lease, reports, made = self.lease, self._heartbeat.take(), self._means.decided.take()
        reached: dict[str, Any] = {"value": outcome.value, "step": outcome.step, "reason": outcome.reason}

        def finish(tx: Session) -> None:
            if outcome.state is TrialState.FAILED:
                reached["reason"] = datasets.called(tx, outcome.reason, job=lease.job_id)
            if reports:
                leases.report(tx, lease, reports, ttl=self._means.ttl)
            if outcome.state is TrialState.PAUSED:
                leases.pause(tx, lease, **reached)
            else:
                leases.finish(tx, lease, outcome.state, **reached, traceback=outcome.traceback)
            decisions.add(tx, made)  # last: all workers write to the same few rows

        self._means.write(finish)
        value = "" if outcome.value is None else f", {lease.spec.metric.name} {outcome.value:.6g}"
        why = "" if outcome.state is TrialState.PAUSED or not outcome.reason else f": {outcome.reason}"
        self._log(f"is {outcome.state} at step {outcome.step}{value}{why}")

    def _release(self, why: Interrupted | Blocked) -> None:
        """Give a trial back. While stopping there is one try only: the lease runs out by itself."""
        if self._heartbeat.failure is not None:
            raise self._heartbeat.failure from why
        if self._heartbeat.lost:
            raise LeaseLost
        blocked_by = (why.ahead, why.step) if isinstance(why, Blocked) else None
        try:
            self._means.write(lambda tx: leases.release(tx, self.lease, reason=str(why), blocked_by=blocked_by))
            self._log(f"is given back: {why}")
        except AWAY as error:
            log.warning("could not release trial %s, its lease will run out: %s", self.lease.trial.number, error)

    def _lose(self, died: Died) -> None:
        """Put a trial back, one of whose processes is gone: the next attempt goes on from its last checkpoint."""
        reports = self._heartbeat.take()

        def lost(tx: Session) -> None:
            if reports:
                leases.report(tx, self.lease, reports, ttl=self._means.ttl)
            leases.lose(tx, self.lease, reason=str(died))

        self._means.write(lost)
        self._log(f"waits for another attempt: {died}")
