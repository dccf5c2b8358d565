"""`lrtune run JOB -- COMMAND`: take trials of a job and start a command for each, as long as the job has some.

The command finds its trial with `lrtune.trial()`, reports and ends it itself. What stands here is what it cannot do for
itself: it keeps the lease alive, starts it again when it dies, stops it when it is silent for too long or the trial is
no longer ours, and passes a SIGTERM on. What the command prints is printed, and its end is kept for the job's log.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrtune import errors
from lrtune.client import Client, found_key
from lrtune.door import patiently
from lrtune.leaving import text
from lrtune.loop import LEASE_SECONDS, WAIT_SECONDS, forget
from lrtune.wire.external import Batch, Checkpoints, Ending, Handout
from lrtune.wire.results import TrialState

POLL_SECONDS = 0.1  # between two looks at a command
TAIL_LINES, TAIL_CHARACTERS = 40, 3000  # of what a command printed, for the job's log


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


@dataclass(slots=True)
class Run:
    """A command that trains a trial, and the end of what it has printed."""

    process: subprocess.Popen[str]
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    heard_at: float = field(default_factory=time.monotonic)

    def read(self) -> None:
        """Print what the command prints, until it ends."""
        assert self.process.stdout is not None  # noqa: S101 - for mypy
        with self.process.stdout as output:
            for line in output:
                sys.stdout.write(line)
                sys.stdout.flush()
                self.tail.append(line.rstrip()[:400])
                self.heard_at = time.monotonic()

    def alive(self, *, group: bool) -> bool:
        """Whether the command runs, or with `group` any process that it has started and not given a session."""
        if self.process.poll() is None:
            return True
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return group

    def said(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.tail)[-TAIL_CHARACTERS:].strip()

    def signal(self, number: int) -> None:
        """Send a signal to the command and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


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
    ) -> None:
        if find_spec("fcntl") is None:
            raise errors.Invalid("`lrtune run` needs Linux or macOS; elsewhere a loop takes its trials in Python")
        self.client, self.job, self.options = client, job, options
        self.command = list(command[1:] if command[:1] == ["--"] else command)
        if not self.command or not installed(self.command[0], options.directory):
            found = repr(self.command[0]) if self.command else "nothing"
            raise errors.Invalid(f"COMMAND: found {found}, which is no program here; accepted is -- python train.py")
        self.folder = None if options.checkpoints == "none" else options.folder.absolute() / job
        self.worker = worker or f"{socket.gethostname()[:60]}-{os.getpid()}"
        self.stop = threading.Event() if stop is None else stop
        self.served = False
        self.exits: dict[int, int] = {}  # how often the command ended with each exit code

    def work(self) -> None:
        """Train until the job is over, or until asked to stop. Raises UnknownJob, NotExternal, Unavailable."""
        try:
            with _asked_to_stop(self.stop):
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
            host=socket.gethostname()[:60],
        )
        self.served = True
        return held

    def train(self, held: Handout) -> None:
        """Run the command for a trial that is held, and end the trial where the command has not."""
        forget(self.folder, held.forget)
        number = held.trial.number
        _say(f"trial {number} from step {held.start} to {held.until}: {shlex.join(self.command)}")
        for attempt in range(1, self.options.tries + 1):
            why, tail = self._once(held)
            if not why or self.stopping or not self._ours(held):
                break
            _say(f"trial {number}: {why} ({attempt} of {self.options.tries} tries)")
        self._end(held, why, tail)

    def _written(self, held: Handout) -> dict[str, Any]:
        """What the command needs to know of its trial."""
        folder = None if self.folder is None else str(self.folder)
        return {"job": self.job, "checkpoints": folder, "handout": held.model_dump(mode="json")}

    def _once(self, held: Handout) -> tuple[str, str]:
        """Run the command once: why it did not end well, if it did not, and the end of what it printed.

        Its file is locked as long as this process lives and wants it to run: so that all that it has started, in
        whatever session, learns of the end of either.
        """
        import fcntl  # which not every system has that has the other commands

        with tempfile.TemporaryDirectory(prefix="lrtune-") as folder:
            file = Path(folder) / "trial.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(self._written(held)))
            with file.open() as locked:
                fcntl.flock(locked, fcntl.LOCK_EX)
                return self._ended(held, file)

    def _ended(self, held: Handout, file: Path) -> tuple[str, str]:
        ours = {"LRTUNE_TRIAL": str(file), "LRTUNE_URL": self.client.url, "PYTHONUNBUFFERED": "1"}
        environment = os.environ | {"LRTUNE_API_KEY": found_key()} | self.options.environment | ours
        process = subprocess.Popen(  # noqa: S603 - the command is the user's own
            self.command,
            env=environment,
            cwd=self.options.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        run = Run(process)
        reader = threading.Thread(target=run.read, daemon=True)
        reader.start()
        try:
            cut = self._watch(held, file, run)
        finally:
            run.signal(signal.SIGKILL)  # and whatever it has left behind
        code = process.wait()
        reader.join(timeout=5)
        self.exits[code] = self.exits.get(code, 0) + 1
        return cut or (f"the command ended with exit code {code}" if code else ""), run.said()

    def _watch(self, held: Handout, file: Path, run: Run) -> str:
        """Wait for a command's end, with signs of life to the server; why it was cut short, if it was."""
        beat_at, cut, kill_at = time.monotonic() + self.options.lease_seconds / 4, "", float("inf")
        while run.alive(group=bool(cut)):
            now = time.monotonic()
            silent = now - max(run.heard_at, _touched(file))
            if not cut and self.stopping:
                cut = "it was asked to stop"
            elif not cut and self.options.silence is not None and silent > self.options.silence:
                cut = f"nothing was heard of the command for {silent:.0f} s"
            elif not cut and now >= beat_at:
                beat_at, cut = now + self.options.lease_seconds / 4, self._beat(held)
            if cut and kill_at == float("inf"):
                kill_at = now + self.options.grace
                run.signal(signal.SIGTERM)
            if now >= kill_at:
                run.signal(signal.SIGKILL)
                if run.process.poll() is not None:
                    break
            self._pause(POLL_SECONDS, always=True)
        return cut

    def _beat(self, held: Handout) -> str:
        """A sign of life; why the trial is to be dropped, if it is no longer ours."""
        batch = Batch(token=held.token, lease_seconds=self.options.lease_seconds)
        try:
            verdict = self.client.tell(self.job, held.trial.number, batch)
        except errors.Unavailable as error:
            _say(f"the command goes on without the server: {error}")
            return ""
        except (errors.Conflict, errors.NotFound) as error:
            return str(error)
        return verdict.reason if verdict.decision == "stop" else ""

    def _ours(self, held: Handout) -> bool:
        """Whether the trial is still held: the command may have ended it."""
        return not self._beat(held) and self._state(held) is TrialState.RUNNING

    def _state(self, held: Handout) -> TrialState:
        try:
            return self.client.trial(self.job, held.trial.number).state
        except errors.Unavailable:
            return TrialState.RUNNING

    def _end(self, held: Handout, why: str, tail: str) -> None:
        """End a trial that its command has not ended."""
        if not self._ours(held):
            return
        if self.stopping:
            ending = Ending(token=held.token, state="waiting", reason=f"{self.worker} was asked to stop")
        elif why:
            reason = f"{why} {self.options.tries} times; the last it printed:\n{tail}" if tail else why
            ending = Ending(token=held.token, state="failed", reason=text(reason))
        else:
            ending = Ending(token=held.token)
        try:
            self._finish(held, ending)
        except errors.Invalid as error:
            said = f"the command ended without a report of its own ({error}); the last it printed:\n{tail}"
            self._finish(held, Ending(token=held.token, state="failed", reason=text(said)))

    def _finish(self, held: Handout, ending: Ending) -> None:
        try:
            patiently(lambda: self.client.finish(self.job, held.trial.number, ending))
        except (errors.Conflict, errors.NotFound) as error:
            _say(f"trial {held.trial.number} is no longer ours: {error}")

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stop.is_set()

    def _pause(self, seconds: float, *, always: bool = False) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and (always or not self.stopping):
            time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))


@contextlib.contextmanager
def _asked_to_stop(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop, instead of ending this process."""
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def installed(program: str, directory: Path | None) -> bool:
    """Whether a program is there, as one that is started in this directory."""
    there = os.path.join(directory or "", program) if os.sep in program else program  # noqa: PTH118 - keeps "./"
    return shutil.which(there) is not None


def _touched(file: Path) -> float:
    """When a command last showed life through its trial's file, on the monotonic clock."""
    return time.monotonic() - max(0.0, time.time() - file.stat().st_mtime)


def _say(what: str) -> None:
    """A line on stderr, where the command's output does not hide it."""
    print(f"lrtune run: {what}", file=sys.stderr, flush=True)
