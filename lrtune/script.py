"""`lrtune.trial()`: the trial of this script, whoever has started it.

Under `lrtune run` it is one of the job's trials; in every process of a team (torchrun, accelerate launch) the same one,
of which the first process reports and all hear the answer at the same step. With `LRTUNE_JOB` it is the real run: the
answer's optimizer and rates over as many steps as the script asks for, and reports that nobody judges.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, SupportsFloat, TypeVar

from pydantic import TypeAdapter

from lrtune import errors
from lrtune.adapters.in_torch import Torch
from lrtune.adapters.team import Team
from lrtune.analysis.prefixes import Course
from lrtune.client import Client
from lrtune.job_names import job_id
from lrtune.leaving import refused, said
from lrtune.loop_trial import LoopTrial
from lrtune.schedules import Curve, Plateau
from lrtune.space import shown
from lrtune.wire.external import Handout, number_of, step_of, whole
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.results import Best

B = TypeVar("B")
NOWHERE = (
    "found neither a trial nor an answer for this script: start it with `lrtune run JOB -- python script.py` to tune "
    "it, or set LRTUNE_JOB to a finished job, or to its answer in a file (from `lrtune best JOB --json`), "
    "for the real run"
)
WATCH_SECONDS = 0.5  # between two looks whether `lrtune run` is still there
KILLED = "its `lrtune run` was killed"
log = logging.getLogger("lrtune.loop")


def trial(steps: int | None = None) -> "ScriptTrial | RealRun":
    """The trial of this script under `lrtune run`, or the real run with LRTUNE_JOB, over `steps` (else the job's).

    A real run over other steps than the job's has the peak that is expected to be best over them, as `lrtune export JOB
    --steps N` has it; an answer in a file keeps its own. Raises LrtuneError where there is neither, with what to set.
    """
    if file := os.environ.get("LRTUNE_TRIAL"):
        return _found(file).of_length(steps)
    if job := os.environ.get("LRTUNE_JOB"):
        if steps is not None and (type(steps) is not int or steps < 1):
            raise errors.Invalid(f"steps: found {shown(steps)}; accepted is a whole number from 1 on")
        return RealRun(*_answer(job, steps), steps)
    raise errors.LrtuneError(NOWHERE)


@cache
def _found(file: str) -> "ScriptTrial":
    """One trial however often a script asks: what speaks to the service, and what a signal reaches, is the same."""
    return ScriptTrial.found(Path(file))


class ScriptTrial(LoopTrial):
    """A trial that `lrtune run` has taken, in a process of its command."""

    _instead = "or tune without checkpoints: `lrtune run JOB --whole -- ...`"

    def __init__(self, file: Path, client: Client, written: Mapping[str, Any], held: Handout) -> None:
        folder = written["checkpoints"]
        super().__init__(client, written["job"], held, folder=Path(folder) if folder else None, team=Team())
        self._file, self._first_node = file, not written.get("node")  # which alone gives back what it was killed in

    @classmethod
    def found(cls, file: Path) -> "ScriptTrial":
        """The trial in the file that `lrtune run` has written. Raises LrtuneError where there is none."""
        try:
            written = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise errors.LrtuneError(f"LRTUNE_TRIAL: {error}; `lrtune run` sets it") from None
        held = Handout.model_validate(written["handout"])
        made = cls(file, client := Client(written["url"], written["key"]), written, held)
        if _unlocked(file):
            made._killed()  # before this process had got here
            client.close()
            raise errors.LrtuneError("LRTUNE_TRIAL: the `lrtune run` that has set it is gone")
        made.__enter__()
        threading.Thread(target=made._watch, name="lrtune-run", daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, made._terminated)
        return made

    def of_length(self, steps: int | None) -> Self:
        """This trial, for a script that trains so many steps. Raises Invalid where it has another number."""
        if steps is not None and steps != self.steps and not self.short:
            detail = f"found a run of {steps} steps; the job's trials have {self.steps}"
            raise errors.Invalid(f'{detail}: submit the job with "horizon": {{"steps": {steps}}}')
        return self

    def leave(self, error: BaseException | None = None) -> None:
        """As `LoopTrial.leave`; but what an exception ends is started again by `lrtune run`, if that may help."""
        if error is None or refused(error):
            super().leave(error)
        elif self._team.rank == 0:
            self._flush()

    def _abandon(self) -> None:
        """The process ends: `lrtune run` sees its exit code, and makes of the trial what that says."""
        if os.getpid() == self._process and self._team.rank == 0 and not self.over:
            last = getattr(sys, "last_value", None)
            with suppress(errors.LrtuneError):
                if last is not None and refused(last):
                    self.fail(said(last))
                self._flush()

    def _watch(self) -> None:
        """End this process when nobody waits for it any more: its command was ended, or `lrtune run` itself."""
        while not _unlocked(self._file):
            time.sleep(WATCH_SECONDS)
        if self._file.exists() and not self.over:
            with suppress(Exception):  # it has to end, whatever comes of it
                self._killed()
        with suppress(OSError):  # who would have read it is most likely gone, too
            sys.stderr.write("lrtune: this process ends, as the `lrtune run` that has started it is gone\n")
            sys.stderr.flush()
        os._exit(1)

    def _killed(self) -> None:
        if self._first_node:
            self.give_back(KILLED)

    def report(self, step: SupportsFloat, **metrics: SupportsFloat) -> bool:
        """As `LoopTrial.report`; in a team every process calls it, and the first one's numbers are sent."""
        with suppress(OSError):
            os.utime(self._file)  # for `lrtune run`: it is alive
        return super().report(step, **metrics)

    def _terminated(self, *_: object) -> None:
        """SIGTERM asks to pause at the next report; after the trial's end it ends the process."""
        if self.over:
            sys.exit(143)
        self.interrupt("its process was asked to end")


class RealRun(Torch):
    """The answer of a job as the trial of a script: its optimizer, its rates, nobody who judges and no stages."""

    start = 0
    short = pausing = keeps_itself = in_stages = False
    checkpoint_path: str | None = None

    def __init__(self, best: Best | AtHorizon, curve: Curve, steps: int | None) -> None:
        self.configuration, self.metric, self.number = best.configuration, best.metric, best.trial
        self.steps = self.until = best.steps if steps is None else steps
        self.seed = best.seeds[0].seed if isinstance(best, Best) and best.seeds else 0
        self.over, self.reason, self.checkpoint = False, "", None
        self.curve, self.key, self._factor = curve, ("", best.trial), curve.over(self.steps)
        self._board: Any = None
        self._beyond = False

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""
        return self._factor(step)

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""
        return self.configuration.learning_rate * self._factor(step)

    def report(self, step: SupportsFloat, **metrics: SupportsFloat) -> bool:
        """Never stops; with LRTUNE_TENSORBOARD, the numbers go into event files in that folder."""
        at = self._step(step)
        self._compare_updates(at)
        if (folder := os.environ.get("LRTUNE_TENSORBOARD")) and not Team().rank:
            if self._board is None:
                from lrtune.adapters.pytorch import event_files

                self._board = event_files(folder)
            for name, value in {**metrics, "learning_rate": self.learning_rate(at - 1)}.items():
                number = number_of(name, value)
                self._board.add_scalar(name, float("nan") if number is None else number, at)
            self._board.flush()
        return False

    def _step(self, step: object) -> int:
        """A step as a script says it; one beyond the run ends no training of hours, and is warned of once."""
        at = whole(step)
        if type(at) is not int or at <= self.steps:
            return step_of(step, self.steps)
        if not self._beyond:
            self._beyond = True
            found = f"found step {at} in a report, and the rates are those of a run of {self.steps} steps"
            log.warning("%s: they stay at the last; ask for all of yours with `lrtune.trial(steps=N)`", found)
        return at

    def due(self, step: int) -> bool:
        """Whether to measure after so many steps: at twenty points of the run."""
        return step % max(1, self.steps // 20) == 0 or step == self.steps

    def restore(self, **_: Any) -> int:
        """Nothing: the real run begins at its first step."""
        return self.start

    def batches(self, loader: Iterable[B]) -> Iterator[B]:
        """The batches of a loader, epoch after epoch."""
        from lrtune.adapters.checkpoints import Batches

        return Batches(loader)

    def keep_with(self, keeper: object) -> None:
        """Nothing: there is nothing to keep."""

    def keep(self, step: int, fill: Callable[[Path], object]) -> None:
        """Nothing: there is no stage to end."""

    def require_one_folder(self) -> None:
        """Nothing: there is nothing to keep."""

    def finish(self, value: SupportsFloat | None = None) -> None:
        """Nothing: nobody judges."""

    def fail(self, reason: str) -> None:
        """Nothing: nobody judges."""

    def give_back(self, reason: str = "") -> None:
        """Nothing: it is nobody else's."""

    def interrupt(self, reason: str) -> None:
        """Nothing: nobody else goes on with it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever leaves it leaves it: there is nothing to end."""


def _unlocked(file: Path) -> bool:
    """Whether the `lrtune run` that holds this file is gone, or has given it up: the system drops a dead one's lock."""
    import fcntl  # where `lrtune run` is, there is this

    try:
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


def _answer(job: str, steps: int | None) -> tuple[Best | AtHorizon, Curve]:
    """The answer of a job, and the curve that its run followed, from the server or from a file. Raises LrtuneError.

    The server carries it over to other `steps` than the job's.
    """
    if job.endswith(".json"):
        return _written(job, steps)
    with Client() as client:
        best = client.best(job := job_id(client, job))
        curve = Course.of(client.trial(job, best.trial), best.objective).curve
        if steps in (None, best.steps):
            return best, curve
        at = client.best_at(job, steps or best.steps)
    log.info("%s", at.words)
    return best.model_copy(update={"configuration": at.configuration}), curve


def _written(file: str, steps: int | None) -> tuple[Best | AtHorizon, Curve]:
    """The answer in a file, of the job's steps or of others. Raises LrtuneError."""
    try:
        found = TypeAdapter[Best | AtHorizon](Best | AtHorizon).validate_json(Path(file).read_text())
    except OSError as error:
        raise errors.LrtuneError(f"LRTUNE_JOB: {file}: {error}; `lrtune best JOB --json` writes one") from None
    except ValueError:
        made = "`lrtune best JOB --json` writes one, and with --steps N one for a run of so many"
        raise errors.LrtuneError(f"LRTUNE_JOB: {file}: found no answer of a job; {made}") from None
    if isinstance(found.configuration.schedule, Plateau):
        raise errors.LrtuneError(f"LRTUNE_JOB: {file}: its schedule looks at the loss; name the job by its id")
    if steps not in (None, found.steps):
        better = f"`lrtune best JOB --steps {steps} --json` writes the one that is expected to be best over {steps}"
        log.warning("%s: its peak is that of a run of %s steps, and stays it; %s", file, found.steps, better)
    return found, found.configuration.curve
