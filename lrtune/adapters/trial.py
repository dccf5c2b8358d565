"""What an adapter needs to know of a trial; `lrtune.loop.LoopTrial` has it."""

from typing import Protocol

from lrtune.wire.configuration import Configuration


class TrialLike(Protocol):
    """A trial that a loop holds: how long it is, the rate of every step, and where to report."""

    steps: int
    metric: str
    configuration: Configuration

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""

    def report(self, step: int, **metrics: float) -> bool:
        """Metrics after `step` updates; True says that the training should stop now."""


def require_length(found: float, trial: TrialLike, accepted: str) -> None:
    """Raise ValueError for a run that is not as long as its trial; `accepted` is what to write instead."""
    if found != trial.steps:
        length = f"of {found} steps" if 0 < found < float("inf") else "without an end"
        own = int(found) if 2 <= found < float("inf") and found == int(found) else 0
        other = f', or "horizon": {{"steps": {own}}} in the job' if own else ""
        raise ValueError(f"found a run {length}; this trial has {trial.steps}: accepted is {accepted}{other}")


def require_start(step: int, trial: TrialLike, accepted: str) -> None:
    """Raise ValueError for a run that does not go on where its trial does; `accepted` is what to write instead."""
    start = getattr(trial, "start", 0)
    if start and step != start:
        raise ValueError(f"found a run that begins after step {step}; this trial goes on after {start}: {accepted}")


def ends_stage(trial: TrialLike, step: int) -> bool:
    """Whether a trial that is trained in stages is at the end of one, before its own."""
    return bool(getattr(trial, "in_stages", False)) and step == getattr(trial, "until", 0) < trial.steps


def paused(trial: TrialLike) -> bool:
    """Whether what is trained is to be kept now."""
    return bool(getattr(trial, "pausing", False)) and not getattr(trial, "over", False)
