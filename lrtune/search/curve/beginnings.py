"""Where training can begin: the checkpoints that there are, as whoever keeps them has written down.

What is gone is counted on no more: a paused run whose checkpoints made room for others begins before where it was
paused, and has that to pay for once more.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from lrtune.search.engine.types import Run
from lrtune.wire.results import Trial


@dataclass(frozen=True, slots=True)
class Beginnings:
    """The `steps` of each trial, by its number, after which there is a checkpoint that trials can begin with.

    With `every` one written down there, a trial itself goes on from the last of its own; else from where it was paused.
    `least` is how many steps a stage has to be worth what it costs to keep its checkpoint.
    """

    steps: Mapping[int, Collection[int]]
    every: bool = False
    least: int = 0

    def start(self, trial: Trial) -> int | None:
        """The step from which a paused trial would go on; None: from where it was paused."""
        return self._last(trial.number, trial.step) if self.every else None

    def of(self, run: Run) -> Run:
        """A run, whose key is its trial's number, with the checkpoints that there are of it."""
        resumes_at = self._last(run.key, run.steps) if self.every and run.state == "paused" else run.resumes_at
        return replace(run, ends=tuple(self.steps.get(run.key, ())), resumes_at=resumes_at)

    def _last(self, number: int, until: int) -> int:
        return max((step for step in self.steps.get(number, ()) if step <= until), default=0)
