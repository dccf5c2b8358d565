"""Hugging Face `Trainer`: `Trainer(..., callbacks=[TrialCallback(trial)])`.

The trainer keeps its own optimizer and scheduler; before each update the trial's rates take the place of what the
scheduler said, in the trainer's logs as well. The metric of the job is one that `evaluate` logs, such as `eval_loss`.
"""

import numbers
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrtune.adapters.distributed import require_one_trial
from lrtune.adapters.pytorch import Rates, plain, require_optimizer
from lrtune.adapters.trial import TrialLike, require_length


class TrialCallback(TrainerCallback):
    """Sets a trial's rates, reports every evaluation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial
        self._rates: Rates | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the optimizer's rates. Raises ValueError for another run or optimizer than the trial's."""
        require_length(state.max_steps, self.trial, f"TrainingArguments(max_steps={self.trial.steps})")
        optimizer = plain(kwargs["optimizer"])
        require_optimizer([optimizer], self.trial)
        require_one_trial(self.trial)
        self._rates = Rates(self.trial, optimizer)
        self._set(state, kwargs["lr_scheduler"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the rates of this update, whatever it is of a run that was resumed."""
        self._set(state, kwargs["lr_scheduler"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the rates of the next update, for whoever looks."""
        self._set(state, kwargs["lr_scheduler"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was measured, if anything was trained by then."""
        measured = {name: float(value) for name, value in kwargs["metrics"].items() if isinstance(value, numbers.Real)}
        if state.global_step and self.trial.report(state.global_step, **measured):
            control.should_training_stop = True

    def _set(self, state: TrainerState, scheduler: Any) -> None:
        """Set the rates, and let the trainer's scheduler say the same."""
        if self._rates is not None:
            rates = self._rates.set(state.global_step)
            getattr(scheduler, "scheduler", scheduler)._last_lr = rates  # Accelerate's is around it
