"""Lightning: `Trainer(max_steps=trial.steps, callbacks=[TrialCallback(trial)])`.

The metric of the job is one that `self.log` gives in validation. A scheduler of the module's own is overruled. Of
several optimizers, which need manual optimization, each goes by its own updates, and the trial by those of the one that
makes the most.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lrtune.adapters.distributed import require_one_trial
from lrtune.adapters.pytorch import Rates, Updates, plain, require_optimizer
from lrtune.adapters.trial import TrialLike, require_length


class TrialCallback(Callback):
    """Sets the rates of every update, reports every validation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial
        self._done: list[int] = []  # the updates of each optimizer, as a checkpoint has them
        self._rates: list[Rates] = []
        self._updates: list[Updates] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizers' rates. Raises ValueError for another run or other optimizers than the trial's."""
        optimizers = [plain(one) for one in trainer.optimizers]
        self._require_length(trainer, automatic=pl_module.automatic_optimization)
        require_optimizer(optimizers, self.trial)
        require_one_trial(self.trial)
        first = Rates(self.trial, optimizers[0])
        self._rates = [first, *(Rates(self.trial, one, first.given[0]) for one in optimizers[1:])]
        done = self._done or [trainer.global_step // len(optimizers)] * len(optimizers)
        self._updates, self._done = [], []
        for one, number in zip(optimizers, done, strict=True):
            self._follow(one, number)
        self._set_all()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates of this step, for whoever looks before the update."""
        self._count(trainer)
        self._set_all()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was measured, if anything was trained by then."""
        self._count(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._step:
            return
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.trial.report(self._step, **measured):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizers be. Raises ValueError for a run that went to its end and is shorter than the trial."""
        self._count(trainer)
        self._leave()
        if not trainer.should_stop and not trainer.interrupted and self._step < self.trial.steps:
            need = f"max_steps={self.trial.steps * len(self._updates)}, which counts the steps of all optimizers,"
            require_length(self._step, self.trial, f"Trainer({need} and as many batches)")

    def state_dict(self) -> dict[str, Any]:
        """How many updates each optimizer has made."""
        return {"updates": [one.done for one in self._updates]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after them."""
        self._done = list(state_dict["updates"])

    @property
    def _step(self) -> int:
        """How many steps of the trial are done."""
        return max((one.done for one in self._updates), default=0)

    def _require_length(self, trainer: Trainer, *, automatic: bool) -> None:
        """What can be known: a module that optimizes by itself makes as many updates as it likes."""
        found = trainer.estimated_stepping_batches
        if automatic or found in (-1, float("inf")):
            require_length(found, self.trial, f"Trainer(max_steps={self.trial.steps})")

    def _count(self, trainer: Trainer) -> None:
        """Of one optimizer Lightning's own count is taken: an update that mixed precision skips is a step there."""
        if len(self._updates) == 1:
            self._updates[0].done = trainer.global_step

    def _follow(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        place = len(self._updates)
        self._updates.append(Updates(optimizer, lambda: self._set(place, last=True), done))

    def _set_all(self) -> None:
        for place in range(len(self._rates)):
            self._set(place)

    def _set(self, place: int, *, last: bool = False) -> None:
        """Set the rates of an optimizer's next update: one that makes fewer is at the step of the one that makes most.

        Raises ValueError for an update after the trial's end.
        """
        step = max(self._updates[place].done, self._step - 1)
        if last and step >= self.trial.steps:
            require_length(step + 1, self.trial, f"a run that ends after {self.trial.steps} updates of each optimizer")
        self._rates[place].set(step)

    def _leave(self) -> None:
        for one in self._updates:
            one.leave()
