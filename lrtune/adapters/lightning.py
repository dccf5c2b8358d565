"""Lightning: `Trainer(max_steps=trial.steps, callbacks=[TrialCallback(trial)])`.

The metric of the job is one that `self.log` gives in validation. A scheduler of the module's own is overruled.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lrtune.adapters.pytorch import rebase
from lrtune.adapters.trial import TrialLike


class TrialCallback(Callback):
    """Sets the rate of every step, reports every validation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial
        self._bases: list[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizers' rates. Raises ValueError for a run that is not as long as the trial."""
        if trainer.estimated_stepping_batches != self.trial.steps:
            found = trainer.estimated_stepping_batches
            raise ValueError(f"found a run of {found} steps; this trial has {self.trial.steps}")
        peak = self.trial.configuration.learning_rate
        self._bases = [rebase(optimizer, peak) for optimizer in trainer.optimizers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates of this step."""
        factor = self.trial.factor(trainer.global_step)
        for optimizer, bases in zip(trainer.optimizers, self._bases, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * factor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was measured."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not trainer.sanity_checking and self.trial.report(trainer.global_step, **measured):
            trainer.should_stop = True
