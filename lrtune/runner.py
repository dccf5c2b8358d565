"""`lrtune run JOB -- COMMAND`: take trials of a job and start a command for each, as long as the job has some.

The command finds its trial with `lrtune.trial()`, reports and ends it itself. What stands here is what it cannot do for
itself: it keeps the lease alive, starts it again when it dies, stops it when it is silent for too long or goes on after
its trial's end, and passes a SIGTERM on. How it died, and the end of what it printed, goes into the job's log.
"""

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrtune import errors
from lrtune.client import Client
from lrtune.command import Launch, Running, ended, launched
from lrtune.door import patiently
from lrtune.leaving import text
from lrtune.loop import LEASE_SECONDS, WAIT_SECONDS, forget, place_of, this_process
from lrtune.printable import printable
from lrtune.wire.external import Batch, Checkpoints, Ending, Handout, ended_by_loop
from lrtune.wire.results import JobState, TrialDetail, TrialState

POLL_SECONDS = 0.1  # between two looks at a command
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Options:
    """How commands are run: `silence` and `grace` in seconds, `tries` of one trial's command."""

    checkpoints: Checkpoints = "own"
    folder: Path = Path("checkpoints")
    lease_seconds: float = LEASE_SECONDS
    silence: float | None = None
    grace: float = 30.0
    tries: int = 3
    directory: Path | None = None  # where the command is started; left out, here
    environment: dict[str, str] = field(default_factory=dict)  # besides what there is
    deterministic: bool = False


class Runner:
    """Trains the trials of one job with a command, one after another."""

    def __init__(
        self,
        client: Client,
        job: str,
        command: Sequence[str],
        options: Options,
        *,
        worker: str | None = None,
        stop: threading.Event | None = None,
        launch: Launch = launched,
    ) -> None:
        if find_spec("fcntl") is None:
            raise errors.Invalid("`lrtune run` needs Linux or macOS; elsewhere a loop takes its trials in Python")
        if options.deterministic and options.checkpoints == "none":
            raise errors.Invalid("--deterministic: found it with --whole; accepted is one of the two")
        self.client, self.job, self.options, self._launch = client, job, options, launch
        self.command = list(command[1:] if command[:1] == ["--"] else command)
        if not self.command or not installed(self.command[0], options.directory):
            found = repr(self.command[0]) if self.command else "nothing"
            raise errors.Invalid(f"COMMAND: found {found}, which is no program here; accepted is -- python train.py")
        self.folder = None if options.checkpoints == "none" else options.folder.absolute() / job
        self.worker = worker or this_process()
        self.stop = threading.Event() if stop is None else stop
        self.hurried = self.served = False
        self.exits: dict[int, int] = {}  # how often the command ended with each exit code

    def work(self) -> None:
        """Train until the job is over, or until asked to stop. Raises UnknownJob, NotExternal, Unavailable."""
        try:
            with _asked_to_stop(self._stop):
                while not self.stopping and self._turn():
                    pass
        finally:
            if self.exits:
                codes = ", ".join(f"{code} ({often})" for code, often in sorted(self.exits.items()))
                _say(f"the command's exit codes, and how often: {codes}")

    def _turn(self) -> bool:
        """Take a trial and train it, or wait a moment where there is none; False at the end of the job."""
        try:
            held = self.take()
        except errors.JobFinished as over:
            _say(str(over))
            forget(self.folder, None)
            return False
        except errors.Unavailable as error:
            if not self.served:
                raise
            _say(f"waits for the server: {error}")
            held = None
        if held is None:
            self._pause(WAIT_SECONDS)
        else:
            self.train(held)
        return True

    def take(self) -> Handout | None:
        """The next trial of the job, if it has one now. Raises UnknownJob, NotExternal, JobFinished, Unavailable."""
        held = self.client.take(
            self.job,
            worker=self.worker,
            lease_seconds=self.options.lease_seconds,
            checkpoints=self.options.checkpoints,
            host=place_of(self.folder),
            deterministic=self.options.deterministic,
        )
        self.served = True
        return held

    def train(self, held: Handout) -> None:
        """Run the command for a trial that is held, and end the trial where the command has not. Raises LrtuneError."""
        forget(self.folder, held.forget, needed=held.needed)
        _say(f"trial {held.trial.number} from step {held.start} to {held.until}: {shlex.join(self.command)}")
        why = tail = ""
        try:
            for attempt in range(1, self.options.tries + 1):
                if self.stopping:
                    break
                why, tail = self._once(held)
                if not why or self.stopping or not self._to_be_tried_again(held):
                    break
                self._log_death(held, f"{why} ({attempt} of {self.options.tries} tries)", tail, last=attempt)
        except OSError as error:
            why = f"the command cannot be started: {error.strerror or error}"
            self._finish(held, Ending(token=held.token, state="waiting", reason=text(why)))
            raise errors.LrtuneError(f"{why}: {shlex.join(self.command)}") from None
        self._end(held, why, tail)

    def _to_be_tried_again(self, held: Handout) -> bool:
        """Whether a trial whose command died has something left to train, and is still ours."""
        found = self._still_ours(held)
        return found is not None and found.step < found.horizon

    def _log_death(self, held: Handout, why: str, tail: str, *, last: int) -> None:
        """Say how a command died, here and in the job's log."""
        _say(f"trial {held.trial.number}: {why}")
        if last < self.options.tries:
            self._note(held, _with_tail(f"{why}, and is started again from step {held.start}", tail))

    def _written(self, held: Handout) -> dict[str, Any]:
        """What the command needs to know of its trial."""
        folder = None if self.folder is None else str(self.folder)
        access = {"url": self.client.url, "key": self.client.key}
        return {"job": self.job, "checkpoints": folder, "handout": held.model_dump(mode="json"), **access}

    def _once(self, held: Handout) -> tuple[str, str]:
        """Run the command once: why it did not end well, if it did not, and the end of what it printed."""
        more = {**self.options.environment, "LRTUNE_URL": self.client.url, "PYTHONUNBUFFERED": "1"}
        with self._launch(self.command, more, self.options.directory, self._written(held)) as run:
            cut = self._watch(held, run)
        self.exits[run.code] = self.exits.get(run.code, 0) + 1
        return cut or (ended(run.code) if run.code else ""), run.said()

    def _watch(self, held: Handout, run: Running) -> str:
        """Wait for a command's end, with signs of life to the server; why it was cut short, if it was.

        Where its trial is over it may go on for `grace` seconds, to save what it likes.
        """
        beat_at, over, cut = time.monotonic() + self.options.lease_seconds / 4, "", ""
        end_at = kill_at = NEVER
        while run.alive(group=bool(cut)):
            now = time.monotonic()
            if not over and not cut and now >= beat_at:
                beat_at, over = now + self.options.lease_seconds / 4, self._beat(held)
                end_at = now + self.options.grace if over else NEVER
            if not cut and (cut := self._why_cut(run) or (over if now >= end_at else "")):
                kill_at = now + self.options.grace
                run.signal(signal.SIGTERM)
                _say(f"trial {held.trial.number}: {cut}; the command has {self.options.grace:g} s to end")
            if now >= kill_at or (cut and self.hurried):
                run.signal(signal.SIGKILL)
                if run.gone():
                    break
            time.sleep(POLL_SECONDS)
        return cut

    def _why_cut(self, run: Running) -> str:
        """Why the command is to end before its trial has, if it is."""
        if self.stopping:
            return "it was asked to stop"
        if self.options.silence is not None and (silent := run.silent()) > self.options.silence:
            return f"nothing was heard of the command for {silent:.0f} s"
        return ""

    def _beat(self, held: Handout) -> str:
        """A sign of life; why the trial is no longer ours, if it is not."""
        batch = Batch(token=held.token, lease_seconds=self.options.lease_seconds)
        try:
            verdict = self.client.tell(self.job, held.trial.number, batch)
        except errors.Unavailable as error:
            _say(f"the command goes on without the server: {error}")
            return ""
        except (errors.Conflict, errors.NotFound, errors.Unauthorized) as error:
            return str(error)
        return (verdict.reason or f"its trial is {verdict.state}") if verdict.decision == "stop" else ""

    def _note(self, held: Handout, said: str) -> None:
        """A line for the job's log, as far as a server answers."""
        batch = Batch(token=held.token, lease_seconds=self.options.lease_seconds, note=text(said))
        with contextlib.suppress(errors.Unavailable, errors.Conflict, errors.NotFound):
            self.client.tell(self.job, held.trial.number, batch)

    def _still_ours(self, held: Handout) -> TrialDetail | None:
        """The trial, if it is still held: the command may have ended it. Waits for a server, until asked to stop."""
        batch = Batch(token=held.token, lease_seconds=self.options.lease_seconds)
        while True:
            try:
                if self.client.tell(self.job, held.trial.number, batch).decision == "stop":
                    return None
                found = self.client.trial(self.job, held.trial.number)
                return found if found.state is TrialState.RUNNING else None
            except errors.Unavailable as error:
                _say(f"waits for the server: {error}")
            except (errors.Conflict, errors.NotFound) as error:
                if not self.stopping:  # a command that was asked to stop has given it back itself
                    _say(self._lost(held.trial.number, error))
                return None
            if self.stopping:
                return None  # its lease runs out
            self._pause(WAIT_SECONDS)

    def _lost(self, number: int, error: errors.LrtuneError) -> str:
        """Why a trial is not held any more: of a job that is paused the command has given it back."""
        with contextlib.suppress(errors.LrtuneError):
            if self.client.get(self.job).state is JobState.PAUSED:
                return f"trial {number} waits, as the job is paused; this goes on once it is resumed"
        return f"trial {number} is no longer ours: {error}"

    def _end(self, held: Handout, why: str, tail: str) -> None:
        """End a trial that its command has not ended."""
        found = self._still_ours(held)
        if found is None:
            return
        whole = found.step == found.horizon
        if self.stopping and not whole:
            ending = Ending(token=held.token, state="waiting", reason=f"{self.worker} was asked to stop")
        elif why and not whole:
            often = f"after {self.options.tries} tries, " if self.options.tries > 1 else ""
            ending = Ending(token=held.token, state="failed", reason=text(_with_tail(f"{often}{why}", tail)))
        else:
            if why:
                self._note(held, _with_tail(f"{why}, after the report of its last step, which stands", tail))
            ending = Ending(token=held.token)
        try:
            self._finish(held, ending)
        except errors.Invalid as error:
            why = "; ".join(one["detail"] for one in error.errors) or str(error)  # where it stands is for programs
            said = _with_tail(f"the command ended without a report of its own ({why})", tail)
            self._finish(held, Ending(token=held.token, state="failed", reason=text(said)))

    def _finish(self, held: Handout, ending: Ending) -> None:
        try:
            found = patiently(lambda: self.client.finish(self.job, held.trial.number, ending))
            if ended_by_loop(found):
                _say(f"trial {found.number} cannot win: {found.reason}; if that was early stopping, switch it off")
        except (errors.Conflict, errors.NotFound) as error:
            _say(f"trial {held.trial.number} is no longer ours: {error}")
        except errors.Unavailable as error:
            _say(f"trial {held.trial.number} is left to its lease, which runs out: {error}")

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stop.is_set()

    def _stop(self) -> None:
        """Asked once, the command may keep its trial; twice, it is killed; a third time, nothing is waited for."""
        if self.hurried:
            raise KeyboardInterrupt
        self.hurried = self.stopping
        self.stop.set()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping:
            time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))


@contextlib.contextmanager
def _asked_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM, Ctrl-C and a terminal that closes ask to stop, instead of ending this process."""
    numbers = [one for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def installed(program: str, directory: Path | None) -> bool:
    """Whether a program is there, as one that is started in this directory."""
    there = os.path.join(directory or "", program) if os.sep in program else program  # noqa: PTH118 - keeps "./"
    return shutil.which(there) is not None


def _with_tail(said: str, tail: str) -> str:
    return f"{said}; the last it printed:\n{tail}" if tail else said


def _say(what: str) -> None:
    """A line on stderr, where the command's output does not hide it; nobody may read it."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(f"lrtune run: {what}"), file=sys.stderr, flush=True)
