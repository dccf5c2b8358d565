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
