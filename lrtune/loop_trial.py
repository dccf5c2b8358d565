"""A trial that a loop of the user's own holds: what to train with, where to report, what to keep, how it ends.

It renews its lease in a thread of its own, hears whether it should stop, and is brought to its end
when its `with` or its turn of the `for` is left, whatever leaves it. What happens over HTTP stands in
`lrtune/wire/external.py`; adapters for frameworks in `lrtune/adapters/`.
"""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, SupportsFloat, cast

from lrtune import errors
from lrtune.adapters.in_torch import Torch
from lrtune.adapters.team import Alone
from lrtune.analysis.prefixes import Course
from lrtune.door import Door, patiently
from lrtune.kept import Kept
from lrtune.leaving import place, said, text, thrown, unwinding
from lrtune.rated import Rated
from lrtune.wire.external import (
    Batch,
    Ending,
    Handout,
    Sent,
    misnamed,
    misplaced,
    number_of,
    scalar,
    sent,
    step_of,
)
from lrtune.wire.results import Report

HEAR_SECONDS = 0.5  # between two looks whether another process of the team has been ended by an error
log = logging.getLogger("lrtune.loop")

_dropped: list["LoopTrial"] = []


class LoopTrial(Torch, Rated, Kept):
    """A trial that this process holds: what to train with, where to report, and whether to stop."""

    def __init__(
        self, door: Door, job_id: str, held: Handout, *, folder: Path | None = None, team: Alone | None = None
    ) -> None:
        self.number, self.seed, self.steps = held.trial.number, held.trial.seed, held.trial.horizon
        self.start, self.until, self.checkpoint = held.start, held.until, held.checkpoint
        self.metric, self.short = held.metric.name, held.short
        self.over = self.pausing = False
        self.reason = ""
        self.keeps_itself = False  # whoever trains keeps the checkpoint, and calls `paused`: the adapters of frameworks
        self._folder, self._team = folder, team or Alone()
        self._stopped = self._to_pause = False  # as the first process of a team has heard; all hear it when they report
        self._began: int | None = None  # where the training began, while the server has not heard that
        self._halted = ""  # why to pause before the stage's end, as the first process of a team has heard
        self._interrupted, self._warned = "", False
        self._door, self._job, self._held, self._trial = door, job_id, held, held.trial
        self._course = Course.of(held.trial, held.metric)
        self._reached = 0  # the newest step of which anything was reported
        self._extra: dict[str, float | None] = {}
        self._sent: set[int] = set()  # the steps of the reports that were to be sent
        self._waiting: list[Sent] = []  # those that are still to be sent
        self._kept: Sent | None = None  # the newest one, between two of the steps at which they are asked for
        self._lock = threading.RLock()
        self._left = threading.Event()
        self._past: TracebackType | None = None  # of an exception that flew past its `for`, and is not known yet
        self._passed = False
        self._heart = threading.Thread(target=self._beat, name=f"trial-{self.number}", daemon=True)

    def __repr__(self) -> str:
        return f"<trial {self.number} of {self._job}: {self.steps} steps, seed {self.seed}>"

    def report(self, step: SupportsFloat, **metrics: SupportsFloat) -> bool:
        """Metrics after `step` updates; True says that the training should stop now, and `reason` why.

        Call it as often as you like: what is sent are about twenty reports that have the metric of the job. Numbers may
        be NumPy's or torch's. A trial that is to pause here is kept first; one shorter than the job's runs stops at its
        end. Raises Invalid for what is no number, a step outside the run, and another metric.
        """
        if self.over:
            self._warn_of_more()
            return True
        self._require_keeper()
        at = step_of(self._in_stage(step), self.steps, start=self.start)
        self._say_if_unasked()
        self._compare_updates(at)
        self._report(at, metrics)
        if (self.pausing or (self._interrupted and at < self.steps)) and not self.over:
            self._pause(at)
        return self.over or self.pausing or (self.short and at == self.steps)

    def _warn_of_more(self) -> None:
        """Once: a loop goes on after its trial has ended."""
        if not self._warned:
            self._warned = True
            ended = f"trial {self.number} has ended{self.reason and f' ({self.reason})'}, and is reported again"
            log.warning("%s: nobody hears it; leave the loop where `trial.report(...)` is true", ended)

    def due(self, step: int) -> bool:
        """Whether a report is asked for after so many steps: the moment to measure, for whoever measures for it."""
        return step in self._held.report_at or step == self.until

    def _report(self, at: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Report what the first process has measured, and hear in all what the service says to it."""
        steps, interrupted = zip(*self._team.gathered((at, self._interrupted)), strict=True)
        if len(set(steps)) > 1:
            raise errors.Invalid(f"step: found {', '.join(map(str, steps))}; all processes report at the same steps")
        self._interrupted = next(filter(None, interrupted), "")

        def heard() -> tuple[bool, bool, str, list[Report], str]:
            self._hear(at, metrics)
            return self._stopped, self._to_pause, self.reason, self._trial.reports, self._interrupted or self._halted

        self.over, self.pausing, self.reason, reports, self._interrupted = self._team.first(heard)
        if self._team.rank and reports != self._trial.reports:
            self._trial = self._trial.model_copy(update={"reports": reports})
            self._follow([])

    def _hear(self, at: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Report, and hear what the service says to it."""
        self._reached = max(self._reached, at)
        self._extra |= {name: number_of(name, value) for name, value in metrics.items()}
        due = self._due(at)
        if wrong := misplaced(self._held.metric, self._extra.get(self.metric)):
            del self._extra[self.metric]
            raise errors.Invalid(f"{self.metric}: {wrong}")
        if self.metric in metrics:
            made, self._extra = sent(at, self._extra), {}
            self._add(made, due=due or made.metrics[self.metric] is None)
        elif due and not self._sent and self._kept is None:
            raise errors.Invalid(misnamed(at, self._extra, self.metric))

    def _due(self, step: int) -> bool:
        """Whether a report is asked for at this step, or at one since the report before it."""
        before = max((one for one in self._sent if one < step), default=self.start)
        return any(before < point <= step for point in self._held.report_at)

    def _add(self, made: Sent, *, due: bool) -> None:
        """Put a report in its place: the first of a step stands, and the newest one is kept until one is due."""
        kept = self._kept.step if self._kept else 0
        if made.step in self._sent or made.step == kept:
            return
        if made.step > max(self._sent, default=kept):
            self._kept = made
            if due:
                self._flush()
        elif due:
            self._send(made)

    def finish(self, value: SupportsFloat | None = None) -> None:
        """The run is over; `value` is the metric at its end, the last report's when left out.

        It is a complete run with a value of its last step: reported there, or said where nothing was reported.
        Otherwise it was stopped.
        """
        if self.over:
            return
        number = None if value is None else number_of(self.metric, value)
        if number is not None and not self._reached:
            self._say_if_unasked()
            self._compare_end()
        try:
            self._finish(number, "" if number is not None or value is None else f"{self.metric} became {scalar(value)}")
        except errors.Invalid as error:
            self.fail(str(error))
            raise

    def _finish(self, value: float | None = None, diverged: str = "") -> None:
        self._flush()
        at = {"step": self._reached} if self._reached else {}
        if diverged:
            self._end("diverged", reason=diverged, **at)
        else:
            self._end("complete", value=value, reason=self._unplanned(), **at)

    def _unplanned(self) -> str:
        """What to say of a stage that was left before its end, which is most often a report that is missing there."""
        if self.until in (self.steps, self._reached) or self.over:
            return ""
        return f"its stage ends at step {self.until}: report {self.metric} there, where `trial.due(step)` is true"

    def fail(self, reason: str) -> None:
        """The run broke, for a reason that has nothing to do with its learning rates."""
        self._end("failed", reason=text(reason), step=self._reached)

    def give_back(self, reason: str = "") -> None:
        """Somebody else is to train it, from its first step; given back again and again, it has failed."""
        self._end("waiting", reason=text(reason))

    def leave(self, error: BaseException | None = None) -> None:
        """End the trial as its loop was left: by an exception, or in good order.

        Ctrl-C and `sys.exit` give it back, and so does who leaves it before the first report; but not a whole run.
        """
        if isinstance(error, Exception):
            self._team.cry(self._about, said(error))
            self.fail(said(error))
        elif error is not None and self.steps not in self._sent:
            self.give_back(said(error))
        else:
            try:
                self._finish()
            except errors.Invalid:  # nothing was reported, here or by another process
                self.give_back(f"left by its loop before it reported {self.metric}")

    def drop(self, at: TracebackType | None) -> None:
        """End the trial as its `for` was left: by the exception of this traceback, or in good order."""
        if at is None or thrown(at) is not None:
            self.leave(thrown(at))
        elif not self.over:
            # It stays ours until the next call to the service or the end of this process, but without a sign of life.
            self._past, self._passed = at, True
            self._left.set()
            _dropped.append(self)

    def settle(self) -> None:
        """End the trial with the exception that flew past its `for`."""
        at, self._past = self._past, None
        try:
            if (error := thrown(at)) or at is None:
                self.leave(error)
            else:
                self.fail(f"an exception at {place(at)}")
        except Exception:  # it comes in the midst of another call
            log.exception("trial %s is left behind; its lease will run out", self.number)
        finally:
            self._close()

    @property
    def key(self) -> tuple[str, int]:
        """Which trial of which job: the processes of one run must hold the same."""
        return self._job, self.number

    def join(self, team: Alone) -> "partial[Iterator[LoopTrial]]":
        """Be trained by a team; what its other processes call to have the same trial, which have no door."""
        self._team = team
        threading.Thread(target=self._listen, name=f"team-{self.number}", daemon=True).start()
        folder = self._folder and self._folder.absolute()
        return partial(beside, self._job, self._held, folder)

    def __enter__(self) -> Self:
        if self._heart.ident is None:
            self._heart.start()
            self._process, self._earlier = os.getpid(), getattr(sys, "last_value", None)
            atexit.register(self._abandon)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._passed:
            return  # until it is known what happened
        try:
            if error is None:
                self.finish()
            else:
                self.leave(error)
        finally:
            self._close()

    def _close(self) -> None:
        self._left.set()
        atexit.unregister(self._abandon)

    def _abandon(self) -> None:
        """The process ends and the trial is still held: say why, while that is possible."""
        if os.getpid() != self._process:
            return  # in a copy of it
        last, at = getattr(sys, "last_value", None), self._past
        try:
            if at is not None and last is self._earlier:
                self.give_back(f"its process ended at {place(at)}")  # by sys.exit, which leaves nothing else behind
            else:
                self.leave(None if last is self._earlier else last)
        except Exception:
            log.exception("trial %s is left behind; its lease will run out", self.number)

    def _flush(self) -> None:
        """Send the newest report, if it is not sent yet."""
        newest, self._kept = self._kept, None
        if newest is not None or self._waiting:
            self._send(*([newest] if newest else []))

    def _send(self, *made: Sent) -> None:
        """Send reports. While no server answers, the training goes on, and they wait for the next time."""
        with self._lock:
            self._waiting += made
            self._sent |= {one.step for one in made}
            self._follow(made)
            self._tell()

    def _follow(self, made: Sequence[Sent]) -> None:
        """A schedule that looks at the loss goes on as these reports leave it: the same replay as the server's."""
        seen = [Report(step=one.step, learning_rate=0.0, metrics=one.metrics) for one in made]
        self._trial = self._trial.model_copy(update={"reports": [*self._trial.reports, *seen]})
        self._course = Course.of(self._trial, self._held.metric)

    def _tell(self) -> None:
        """A sign of life, with the reports that wait, which go on waiting while no server answers."""
        try:
            self._say()
        except errors.Unavailable as error:
            log.warning("trial %s goes on without the server: %s", self.number, error)

    def _say(self) -> None:
        if self._stopped or self._team.rank:
            return
        held, reports = self._held, self._waiting[:1000]
        batch = Batch(token=held.token, lease_seconds=held.lease_seconds, start=self._began, reports=reports)
        try:
            verdict = self._door.tell(self._job, self.number, batch)
        except (errors.Conflict, errors.NotFound, errors.Unauthorized) as error:
            log.warning("trial %s is no longer ours: %s", self.number, error)
            self._stop(str(error))
            return
        except errors.Invalid:
            self._waiting = []  # what was refused once would be refused for ever
            raise
        self._waiting, self._began = self._waiting[len(reports) :], None
        if verdict.decision == "stop":
            self._stop(verdict.reason)
        # What an earlier process reported of this stage may reach further than this one has trained.
        if verdict.decision == "pause" and self._reached >= self.until:
            self._to_pause, self.reason = True, verdict.reason
        elif verdict.decision == "pause" and verdict.step < self.until:
            self._halted = verdict.reason

    def _end(self, state: Literal["complete", "diverged", "failed", "waiting", "paused"], **said: Any) -> None:
        with self._lock:
            if self.over or self._stopped or self._team.rank:
                self.over, self.reason = True, self.reason or said.get("reason", "")
                self._left.set()
                return
            ending = Ending(token=self._held.token, state=state, **said)
            try:
                # What ends with a value ends with all of its reports; what does not need not wait for them.
                while self._waiting and not self._stopped and state not in ("failed", "waiting"):
                    patiently(self._say)
                patiently(lambda: self._door.finish(self._job, self.number, ending))
            except (errors.LeaseLost, errors.NotFound, errors.Unauthorized) as error:
                log.warning("trial %s is no longer ours: %s", self.number, error)
            self._stop(said.get("reason", ""))
            self.over = True

    def _stop(self, reason: str) -> None:
        """The trial is no longer held; the processes of a team hear it at their next report, all at once."""
        self._stopped, self.reason = True, reason or self.reason
        self.over = self.over or self._team.size == 1
        self._left.set()

    def _beat(self) -> None:
        """Signs of life, until the trial is left."""
        while not self._left.wait(self._held.lease_seconds / 4):
            with self._lock:
                try:
                    self._tell()
                except errors.LrtuneError:
                    log.exception("trial %s goes on without a sign of life", self.number)

    def _listen(self) -> None:
        """Fail with what has ended another process of the team: this one may wait for it in the midst of a step."""
        while not self._left.wait(HEAR_SECONDS):
            if cry := self._team.cried(self._about):
                with suppress(errors.LrtuneError):  # no server answers
                    self.fail(cry)
                break
        self._team.comfort(self._about)

    @property
    def _about(self) -> str:
        return f"{self._job}/{self.number}/{self._held.token}"


def turn(trial: LoopTrial) -> Iterator[LoopTrial]:
    """A trial for the turn of a `for`, brought to its end as that is left."""
    with trial:
        try:
            yield trial
        except GeneratorExit:  # the `for` was left
            trial.drop(unwinding(sys._getframe().f_back))


def beside(job_id: str, held: Handout, folder: Path | None, *, team: Alone) -> Iterator[LoopTrial]:
    """A trial that the first process of a team holds, in another one."""
    return turn(LoopTrial(cast(Door, None), job_id, held, folder=folder, team=team))


def settle() -> None:
    """End the trials that an exception flew past, now that somebody may have caught it."""
    while _dropped:
        with suppress(IndexError):  # another thread was quicker
            _dropped.pop().settle()
