"""How a trial of a loop's pauses, and goes on from what was kept: by us, or by the framework that trains it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lrtune import errors
from lrtune.wire.external import whole

log = logging.getLogger("lrtune.loop")
B = TypeVar("B")


class Kept:
    """The half of a trial that knows its checkpoints. In a team every process makes these calls."""

    _other_keeper: Any = None
    _folder_seen = False
    _instead = "or tune without checkpoints: leave the folder for them out"
    _began: int | None

    def batches(self: Any, loader: Iterable[B]) -> Iterator[B]:
        """The batches of a loader, epoch after epoch, from the place where this trial goes on."""
        made: Iterator[B] = self._keeper.batches(loader)
        return made

    def restore(self: Any, **objects: Any) -> int:
        """Bring what is trained to where this trial goes on, and answer with the steps that it has had, 0 at first.

        Name all that changes as you train and has a `state_dict`: model, optimizer, scheduler, scaler; and each random
        generator of your own (torch's, NumPy's or Python's). It is kept where the trial pauses, with the generators
        that all share and the place in `batches`; sharded parameters (DTensor, as `fully_shard` makes them) by torch's
        distributed checkpoint. A checkpoint that cannot be read costs its steps once more. Raises TypeError for what
        has no state, LrtuneError where a checkpoint does not fit.
        """
        self.require_one_folder()
        if self._keeper.read(objects):
            self._keeper.put()
        else:
            self._begin_again()
        start: int = self.start
        return start

    @cached_property
    def checkpoint_path(self: Any) -> str | None:
        """The directory that this trial goes on from; None where it begins, also as what was kept cannot be read."""
        from lrtune.adapters.folder import Broken, Folder

        if self.checkpoint is None or self._folder is None:
            return None
        try:
            return str(Folder(self._folder).directory(self.checkpoint, processes=self._team.known))
        except Broken as error:
            log.warning("trial %s begins again: %s", self.number, error)
            self._begin_again()
            return None

    @property
    def in_stages(self: Any) -> bool:
        """Whether it may have to pause: it was taken with a folder for checkpoints."""
        return self._folder is not None

    def _in_stage(self: Any, step: object) -> object:
        """What is reported as a step. Raises Invalid for one after the end of a stage, or of a range test."""
        at = whole(step)
        if type(at) is int and at > self.until and (self.short or self.until < self.steps):
            found = f"step: found {at}; this stage ends at step {self.until}"
            report = "report there as well: `trial.due(step)` is true at such a step"
            epochs = "where a loop reports after whole epochs, let the job's horizon have 20 epochs, or 40, 60, ..."
            instead = "or train whole runs: `lrtune run JOB --whole -- ...`, in Python without a folder for checkpoints"
            raise errors.Invalid(f"{found}: {report}; {epochs}, {instead}")
        return step

    def _require_keeper(self: Any) -> None:
        """Raise Invalid where a stage could not be kept at its end, before it is trained.

        Of a job in stages also in a whole run, which its baseline is: a script that keeps nothing is to hear it first.
        """
        pauses = self.until < self.steps
        if self.in_stages and (pauses or self._held.stages) and not self.keeps_itself and "_keeper" not in vars(self):
            who = f"trial {self.number} is to pause after step {self.until}" if pauses else "trials of this job pause"
            found = f"{who}, and nothing to keep is known"
            restore = "call `start = trial.restore(model=model, optimizer=optimizer, ...)` before the training"
            raise errors.Invalid(f"{found}: {restore}, {self._instead}")

    def keep_with(self: Any, keeper: Any) -> None:
        """Let another one keep this trial where it pauses, and the place in `batches`: an adapter's."""
        self._keeper = self._other_keeper = keeper

    def keep(self: Any, step: int, fill: Callable[[Path], object]) -> None:
        """End the stage after so many steps with what `fill`, called in every process, puts into a directory.

        Raises LrtuneError.
        """
        from lrtune.adapters.folder import Folder

        if self._folder is None:
            self.give_back(self._interrupted)
        elif not self.over:
            self.require_one_folder()
            folder = Folder(self._folder)
            self._paused(folder.write_directory(self.number, step, fill, team=self._team), step)

    def paused(self: Any, checkpoint: str, step: int) -> None:
        """The training is kept after so many steps under this name, and somebody goes on from it."""
        self._flush()
        self._end("paused", step=step, checkpoint=checkpoint, reason=self._interrupted)

    def interrupt(self: Any, reason: str) -> None:
        """Pause at the next report, wherever that is: this process has to go. Without a checkpoint it is given back."""
        self._interrupted = reason

    def require_one_folder(self: Any) -> None:
        """Raise LrtuneError, in all processes, where they do not see one folder for checkpoints."""
        if self._folder is not None and not self._folder_seen:
            self._team.require_one_folder(self._folder)
            self._folder_seen = True

    def _paused(self: Any, checkpoint: str, step: int) -> None:
        """As `paused`, in a team: what the first one hears of it, all do."""

        def paused() -> tuple[bool, str]:
            self.paused(checkpoint, step)
            return self.over, self.reason

        self.over, self.reason = self._team.first(paused)

    def _pause(self: Any, step: int) -> None:
        """Keep what is trained and end the stage."""
        if self.keeps_itself:
            self.pausing = True
        elif self._other_keeper is not None:
            self._other_keeper.keep(step)
        elif self._keeper.ready:
            self._paused(self._keeper.write(step), step)
        elif self.pausing:
            said = "call `trial.restore(model=model, optimizer=optimizer, ...)` before the training"
            raise errors.Invalid(
                f"trial {self.number} is to pause after step {step}, and nothing to keep is known: {said}"
            )
        else:
            self.give_back(self._interrupted)

    def _begin_again(self: Any) -> None:
        """Train from the first step, as what was kept cannot be read: what was reported counts no more."""
        self.start = self._began = self._reached = 0
        self._trial = self._trial.model_copy(update={"reports": []})
        self._follow([])
        self._tell()

    @cached_property
    def _keeper(self: Any) -> Any:
        try:
            from lrtune.adapters.checkpoints import Keeper
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            instead = "or train whole runs: `lrtune run JOB --whole -- ...`, in Python without a folder for checkpoints"
            raise errors.LrtuneError(
                f"checkpoints are written by torch, and it is not here: install it, {instead}"
            ) from None

        return Keeper(self._folder, self.number, self.checkpoint, self._team)
