"""A trial's methods that are torch's own: its schedule and its optimizer; torch is imported where they are called."""

from typing import Any


class Torch:
    """What a trial is in torch."""

    def scheduler(self: Any, optimizer: Any, *, step: int = 0) -> Any:
        """Torch's LambdaLR over an optimizer whose rates become the trial's; groups keep their ratios to the first.

        It goes by the optimizer's own updates; `step` says how many were made before. Raises ValueError for another
        optimizer than the configuration's.
        """
        from lrtune.adapters import pytorch

        return pytorch.scheduler(self, optimizer, step=step)

    def optimizer(self: Any, parameters: Any) -> Any:
        """Torch's optimizer of the configuration, with its knobs, over these parameters."""
        from lrtune.adapters import pytorch

        return pytorch.optimizer(self, parameters)
