"""Your own training loop, tuned: `for trial in job.trials(): ...`. The service decides, the loop trains.

A trial that is held renews its lease in a thread of its own, hears whether it should stop, and is brought to its end
when its `with` or its turn of the `for` is left. What happens over HTTP stands in `lrtune/wire/external.py`; adapters
for frameworks in `lrtune/adapters/`.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from pydantic import PrivateAttr

from lrtune import errors
from lrtune.analysis.prefixes import Course
from lrtune.wire.external import Batch, Ending, Handout, Sent, Verdict
from lrtune.wire.results import Job, Report, Trial

WAIT_SECONDS = 2.0  # before asking again when others train all there is
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0)  # seconds before the end of a trial is sent again, no server answering
LEASE_SECONDS = 90.0
log = logging.getLogger("lrtune.loop")
T = TypeVar("T")


class Door(Protocol):
    """The calls that a loop makes; `lrtune.client.Client` has them."""

    def take(self, job_id: str, *, worker: str, lease_seconds: float) -> Handout | None:
        """The next trial, or None while there is none."""

    def tell(self, job_id: str, number: int, batch: Batch) -> Verdict:
        """Reports, or a sign of life."""

    def finish(self, job_id: str, number: int, ending: Ending) -> Trial:
        """The end of a trial."""


class LoopTrial:
    """A trial that this process holds: what to train with, where to report, and whether to stop."""

    def __init__(self, door: Door, job_id: str, held: Handout) -> None:
        self.number, self.seed, self.steps = held.trial.number, held.trial.seed, held.trial.horizon
        self.configuration = held.trial.configuration
        self.over = False
        self.reason = ""
        self._door, self._job, self._held, self._trial = door, job_id, held, held.trial
        self._course = Course.of(held.trial, held.metric)
        self._extra: dict[str, float | None] = {}
        self._waiting: list[Sent] = []  # reports that are still to be sent
        self._kept: Sent | None = None  # the newest one, between two of the steps at which they are asked for
        self._flushed = 0  # the step of the newest report that was to be sent
        self._lock = threading.RLock()
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"trial-{self.number}", daemon=True)

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""
        return self._course.factor(step)

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""
        return self._course.rate(step)

    def to_send(self) -> dict[str, Any]:
        """What another process needs to train this trial and report it: number, token, seed, rates, when to report."""
        rates = self._course.rates(0, self.steps)
        sent = {"number": self.number, "token": self._held.token, "seed": self.seed, "rates": rates}
        return sent | {"report_at": self._held.report_at}

    def report(self, step: int, **metrics: float) -> bool:
        """Metrics after `step` updates; True says that the training should stop now, and `reason` why.

        Call it as often as you like: what is sent are about twenty reports that have the metric of the job.
        """
        self._extra |= {name: _finite(value) for name, value in metrics.items()}
        metric = self._held.metric.name
        if metric in metrics and 1 <= step <= self.steps and not self.over:
            self._kept, self._extra = Sent(step=step, metrics=self._extra), {}
            due = any(self._flushed < point <= step for point in self._held.report_at)
            if due or self._kept.metrics[metric] is None:
                self._flush()
        return self.over

    def finish(self, value: float | None = None) -> None:
        """The run is done; `value` is the metric at its end, the last report's when left out."""
        if self.over:
            return
        self._flush()
        if value is not None and _finite(value) is None:
            self._end("diverged", reason=f"{self._held.metric.name} became {float(value)}")
            return
        try:
            self._end("complete", value=None if value is None else float(value))
        except errors.Invalid as error:
            self.fail(str(error))
            raise

    def fail(self, reason: str) -> None:
        """The run broke, for a reason that has nothing to do with its learning rates."""
        self._end("failed", reason=reason[:4000].replace("\0", ""))

    def give_back(self, reason: str = "") -> None:
        """Somebody else is to train it, from its first step."""
        self._end("waiting", reason=reason)

    def scheduler(self, optimizer: Any) -> Any:
        """Torch's LambdaLR over an optimizer whose rates become the trial's; groups keep their ratios to the first."""
        from lrtune.adapters import pytorch

        return pytorch.scheduler(self, optimizer)

    def optimizer(self, parameters: Any) -> Any:
        """Torch's optimizer of the configuration, with its knobs, over these parameters."""
        from lrtune.adapters import pytorch

        return pytorch.optimizer(self, parameters)

    def __enter__(self) -> Self:
        if self._heart.ident is None:
            self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self.finish()
            elif isinstance(error, Exception):
                self.fail(f"{type(error).__name__}: {error}")
            else:
                self.give_back(f"{type(error).__name__} in its loop")
        finally:
            self._left.set()

    def _flush(self) -> None:
        """Send what is to be sent. While no server answers, the training goes on, and it waits for the next time."""
        with self._lock:
            if self._kept is not None:
                self._waiting.append(self._kept)
                self._flushed, self._kept = self._kept.step, None
            self._tell(self._waiting)

    def _tell(self, reports: list[Sent]) -> None:
        if self.over:
            return
        batch = Batch(token=self._held.token, lease_seconds=self._held.lease_seconds, reports=reports)
        try:
            verdict = self._door.tell(self._job, self.number, batch)
        except errors.Unavailable as error:
            log.warning("trial %s goes on without the server: %s", self.number, error)
            return
        except (errors.Conflict, errors.NotFound) as error:
            log.warning("trial %s is no longer ours: %s", self.number, error)
            self._stop(str(error))
            return
        except errors.Invalid:
            self._waiting = []  # what was refused once would be refused for ever
            raise
        self._waiting = []
        self._follow(reports)
        if verdict.decision == "stop":
            self._stop(verdict.reason)

    def _follow(self, reports: list[Sent]) -> None:
        """A schedule that looks at the loss goes on as these reports leave it: the same replay as the server's."""
        seen = [Report(step=one.step, learning_rate=0.0, metrics=one.metrics) for one in reports]
        if seen:
            self._trial = self._trial.model_copy(update={"reports": [*self._trial.reports, *seen]})
            self._course = Course.of(self._trial, self._held.metric)

    def _end(self, state: Literal["complete", "diverged", "failed", "waiting"], **said: Any) -> None:
        with self._lock:
            if self.over:
                return
            ending = Ending(token=self._held.token, state=state, **said)
            try:
                _patiently(lambda: self._door.finish(self._job, self.number, ending))
            except (errors.LeaseLost, errors.NotFound) as error:
                log.warning("trial %s is no longer ours: %s", self.number, error)
            self._stop(said.get("reason", ""))

    def _stop(self, reason: str) -> None:
        self.over, self.reason = True, reason
        self._left.set()

    def _beat(self) -> None:
        """Signs of life, until the trial is left."""
        while not self._left.wait(self._held.lease_seconds / 4):
            with self._lock:
                try:
                    self._tell(self._waiting)
                except errors.LrtuneError:
                    log.exception("trial %s goes on without a sign of life", self.number)


class LoopJob(Job):
    """A job as it stands, and its trials for a loop of your own where its task is `external`."""

    _door: Door | None = PrivateAttr(None)

    def trials(self, *, lease_seconds: float = LEASE_SECONDS) -> Iterator[LoopTrial]:
        """The trials to train, one after another, until the job is over; any number of processes may share them."""
        if self._door is None:
            raise errors.LrtuneError("this job came without its client; `client.get(job.id)` has it again")
        return trials(self._door, self.id, lease_seconds=lease_seconds)


def joined(job: LoopJob, door: Door) -> LoopJob:
    """The job, able to ask for its trials."""
    job._door = door
    return job


def trials(door: Door, job_id: str, *, lease_seconds: float = LEASE_SECONDS) -> Iterator[LoopTrial]:
    """The trials of a job, each held while it is this one's turn. Raises NotExternal, UnknownJob."""
    worker = f"{socket.gethostname()[:60]}-{os.getpid()}"
    while True:
        try:
            held = door.take(job_id, worker=worker, lease_seconds=lease_seconds)
        except errors.JobFinished as over:
            log.info("job %s: %s", job_id, over)
            return
        if held is None:
            time.sleep(WAIT_SECONDS)
            continue
        with LoopTrial(door, job_id, held) as trial:
            yield trial


def _finite(value: float) -> float | None:
    """A number as it travels; torch's and NumPy's are taken as well."""
    number = float(value)
    return number if math.isfinite(number) else None


def _patiently(call: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return call()
        except errors.Unavailable as error:
            log.warning("trying again in %g s: %s", pause, error)
            time.sleep(pause)
    return call()
