"""Keras: `model.fit(..., callbacks=[TrialCallback(trial)])`, whatever the backend.

The metric of the job is one that `fit` logs at the end of an epoch, such as `val_loss`.
"""

from typing import Any

import keras

from lrtune.adapters.trial import TrialLike


class TrialCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the rate of every step, reports every epoch, and stops `fit` when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        super().__init__()
        self.trial, self.done = trial, 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Look whether the run is as long as the trial. Raises ValueError if not."""
        steps = (self.params["steps"] or 0) * self.params["epochs"]
        if steps != self.trial.steps:
            raise ValueError(f"found a run of {steps} steps; this trial has {self.trial.steps}")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate of this step."""
        self.model.optimizer.learning_rate = self.trial.learning_rate(self.done)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step."""
        self.done += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report what was measured."""
        if self.trial.report(self.done, **(logs or {})):
            self.model.stop_training = True
