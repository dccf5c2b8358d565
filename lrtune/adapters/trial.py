"""What an adapter needs to know of a trial; `lrtune.loop.LoopTrial` has it."""

from typing import Protocol

from lrtune.wire.configuration import Configuration


class TrialLike(Protocol):
    """A trial that a loop holds: how long it is, the rate of every step, and where to report."""

    steps: int
    configuration: Configuration

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""

    def report(self, step: int, **metrics: float) -> bool:
        """Metrics after `step` updates; True says that the training should stop now."""
