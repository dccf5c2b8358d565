"""Hugging Face `Trainer`: `Trainer(..., callbacks=[TrialCallback(trial)])`.

The trainer keeps its own optimizer; its scheduler follows the trial, so its logs tell the truth. The metric of the job
is one that `evaluate` logs, such as `eval_loss`.
"""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrtune.adapters.pytorch import rebase
from lrtune.adapters.trial import TrialLike


class TrialCallback(TrainerCallback):
    """Follows a trial's rates, reports every evaluation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the trainer's scheduler follow the trial. Raises ValueError where that cannot be."""
        if state.max_steps != self.trial.steps:
            raise ValueError(f"found a run of {state.max_steps} steps; this trial has {self.trial.steps}")
        scheduler = kwargs["lr_scheduler"]
        scheduler = getattr(scheduler, "scheduler", scheduler)  # Accelerate's, around it
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(f"found the scheduler {type(scheduler).__name__}; accepted is lr_scheduler_type='linear'")
        bases = rebase(scheduler.optimizer, self.trial.configuration.learning_rate)
        scheduler.base_lrs = list(bases)
        scheduler.lr_lambdas = [self.trial.factor] * len(bases)
        rates = [base * self.trial.factor(0) for base in bases]
        scheduler._last_lr = list(rates)
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report what was measured."""
        measured = {name: value for name, value in kwargs["metrics"].items() if isinstance(value, int | float)}
        if self.trial.report(state.global_step, **measured):
            control.should_training_stop = True
