"""A trial's methods that are torch's own: its schedule and its optimizer; torch is imported where they are called."""

import logging
from typing import Any, Self

log = logging.getLogger(__name__)
TELLING = 10  # steps: of the first updates mixed precision skips some


class Torch:
    """What a trial is in torch."""

    def scheduler(self: Any, optimizer: Any, *, step: int = 0) -> Any:
        """Torch's LambdaLR over an optimizer whose rates become the trial's; groups keep their ratios to the first.

        It goes by the optimizer's own updates, or as a second one by those of the first; `step` says how many were made
        before. Raises ValueError for another optimizer than the configuration's.
        """
        from lrtune.adapters import pytorch

        return pytorch.scheduler(self, optimizer, step=step)

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: a copy of a model that has it (Lightning's averaging makes one) belongs to the same trial."""
        return self

    def _compare_updates(self: Any, step: int) -> None:
        """Say, once, that a report counts something else than updates: the schedule would end with another step."""
        first = vars(self).get("_updates")
        if first is None or step < TELLING or "_miscounted" in vars(self):
            return
        if 2 * first.done <= step or first.done >= 2 * step:
            self._miscounted = True
            found = f"found step {step} in a report, and {first.done} updates of the first optimizer"
            log.warning("%s: steps are its updates; report those, and let the job's horizon be their number", found)

    def _compare_end(self: Any) -> None:
        """Say of a run that has reported nothing that its schedule was cut off, or that it went on after its end."""
        first = vars(self).get("_updates")
        if first is None or abs(self.steps - first.done) <= max(TELLING, self.steps / 20):
            return
        found = f"the run ended after {first.done} updates of the first optimizer, and its trial has {self.steps} steps"
        log.warning("%s: let the job's horizon be their number, so that the schedule ends with the run", found)

    def optimizer(self: Any, parameters: Any) -> Any:
        """Torch's optimizer of the configuration, with its knobs, over these parameters."""
        from lrtune.adapters import pytorch

        return pytorch.optimizer(self, parameters)
