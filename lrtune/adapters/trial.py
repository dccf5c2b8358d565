"""What an adapter needs to know of a trial; `lrtune.loop.LoopTrial` has it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lrtune.wire.configuration import Configuration


class TrialLike(Protocol):
    """A trial that a loop holds: its stage, the rate of every step, where to report, and where to keep it.

    One that is `short`, a learning-rate range test, ends before the script's own run would.

    An adapter that keeps the trial sets `keeps_itself`, and calls `keep` once the trial is `pausing`.
    """

    steps: int
    metric: str
    start: int
    until: int
    short: bool
    over: bool
    pausing: bool
    keeps_itself: bool

    @property
    def configuration(self) -> Configuration:
        """What it is trained with."""

    @property
    def key(self) -> tuple[str, int]:
        """Its job and its number."""

    @property
    def in_stages(self) -> bool:
        """Whether it may have to pause."""

    @property
    def checkpoint_path(self) -> str | None:
        """The directory that it goes on from."""

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""

    def report(self, step: int, **metrics: float) -> bool:
        """Metrics after `step` updates; True says that the training should stop now."""

    def keep(self, step: int, fill: Callable[[Path], object]) -> None:
        """End the stage with what `fill`, called in every process, puts into a directory."""

    def require_one_folder(self) -> None:
        """Raise LrtuneError where the processes of a run do not see one folder for checkpoints."""


def require_length(found: float, trial: TrialLike, accepted: str) -> None:
    """Raise ValueError for a run that is not as long as its trial; `accepted` is what to write instead."""
    if found != trial.steps and not (trial.short and found > trial.steps):
        length = f"of {found} steps" if 0 < found < float("inf") else "without an end"
        own = int(found) if 2 <= found < float("inf") and found == int(found) else 0
        other = f', or "horizon": {{"steps": {own}}} in the job' if own else ""
        raise ValueError(f"found a run {length}; this trial has {trial.steps}: accepted is {accepted}{other}")


def require_start(step: int, trial: TrialLike, accepted: str) -> None:
    """Raise ValueError for a run that does not go on where its trial does; `accepted` is what to write instead."""
    if trial.start and step != trial.start:
        begins = f"found a run that begins after step {step}"
        raise ValueError(f"{begins}; this trial goes on after {trial.start}: {accepted}")


def ends_stage(trial: TrialLike, step: int) -> bool:
    """Whether a trial is at a step where it ends before the script's run: at the end of a stage, or as a short one."""
    return step == trial.until and (trial.short or (trial.in_stages and trial.until < trial.steps))


def paused(trial: TrialLike) -> bool:
    """Whether what is trained is to be kept now."""
    return trial.pausing and not trial.over
