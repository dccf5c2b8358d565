"""Lightning: `Trainer(max_steps=trial.steps, callbacks=[TrialCallback(trial)])`.

The metric of the job is one that `self.log` gives in validation. A scheduler of the module's own is overruled. Of
several optimizers, which need manual optimization, each goes by its own updates, and the trial by those of the one that
makes the most.

A trial taken with `job.trials(checkpoints=...)` is kept in Lightning's own checkpoint and goes on with
`trainer.fit(module, resumable(loader), ..., ckpt_path=checkpoint(trial))`; `max_steps` stays `trial.steps`. Several
processes keep it together.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.data_connector import _get_distributed_sampler
from lightning.pytorch.utilities.data import _update_dataloader
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler

from lrtune.adapters import matching
from lrtune.adapters.checkpoints import generators, generators_of, set_generators
from lrtune.adapters.distributed import require_one_trial
from lrtune.adapters.pytorch import Rates, Updates, plain, require_optimizer
from lrtune.adapters.team import Team
from lrtune.adapters.trial import TrialLike, ends_stage, paused, require_length, require_start

FILE = "trial.ckpt"


def checkpoint(trial: Any) -> str | None:
    """The file that a trial goes on from, for `ckpt_path`; None where it begins."""
    path = trial.checkpoint_path
    return None if path is None else str(Path(path) / FILE)


class resumable:  # noqa: N801 - written like a function
    """A loader whose place, and order of shuffling, a checkpoint of Lightning's keeps.

    Of several processes each goes through its share, as with any loader that Lightning is given; all of them go
    through everything with `share=False`, which belongs to `Trainer(use_distributed_sampler=False)`.
    """

    def __init__(self, loader: Any, *, share: bool = True) -> None:
        self._given, self._share, self._place, self._begun = loader, share, 0, dict[str, Any]()
        self._go_on, self._epoch = False, 0

    @property
    def loader(self) -> Any:
        """The loader of this process's share, once the processes know of each other."""
        given = self._given
        if (
            self._share
            and isinstance(given, DataLoader)
            and distributed.is_available()
            and distributed.is_initialized()
        ):
            self._share = False
            of_share = isinstance(given.sampler, DistributedSampler) or isinstance(given.dataset, IterableDataset)
            if distributed.get_world_size() > 1 and not of_share:
                sampler = _get_distributed_sampler(given, isinstance(given.sampler, RandomSampler), 0)
                self._given = _update_dataloader(given, sampler)
        return self._given

    @property
    def sampler(self) -> Any:
        """The sampler, which Lightning tells the epoch."""
        return getattr(self.loader, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """The sampler of batches, which Lightning tells the epoch."""
        return getattr(self.loader, "batch_sampler", None)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        skipped, self._place = (self._place if self._go_on else 0), 0
        own = generators_of(self.loader)
        if self._go_on:
            _set_sampler_epoch(self, self._epoch)  # Lightning says it later
            set_generators(self._begun, own)
        else:
            self._begun = generators(own)
        self._go_on = False
        made = self._counted(iter(self.loader))
        for _ in range(skipped):
            next(made)
        return made

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its batches were taken, and every process's random generators as it began."""
        epoch = getattr(self.sampler, "epoch", 0)
        return {"place": self._place, "epoch": epoch, "begun": Team().gathered(self._begun)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin there next time. Raises ValueError for a state of more or fewer processes."""
        self._place, self._epoch, self._begun = state["place"], state["epoch"], _own(state["begun"])
        self._go_on = bool(self._begun)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._place += 1
            yield batch


def _stop(trainer: Trainer) -> None:
    """Let a trainer stop, also one that has a least number of epochs or steps to make."""
    trainer.should_stop = True
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None


def _own(kept: list[dict[str, Any]]) -> dict[str, Any]:
    """What is this process's of what all have kept. Raises ValueError where they were more or fewer."""
    team = Team()
    if len(kept) != team.size:
        raise ValueError(
            f"found a checkpoint of {len(kept)} processes; this run has {team.size}, and goes on with as many"
        )
    return kept[team.rank]


class TrialCallback(Callback):
    """Sets the rates of every update, reports every validation, and stops the trainer when the service says so."""

    def __init__(self, trial: TrialLike) -> None:
        self.trial = trial
        self._done: list[int] = []  # the updates of each optimizer, as a checkpoint has them
        self._rates: list[Rates] = []
        self._given: list[list[float]] | None = None  # the rates that the script gave groups, as a checkpoint has them
        self._updates: list[Updates] = []
        self._before: dict[str, Any] | None = None  # the random generators before a validation that only we asked for
        self._measured: dict[str, float] = {}  # last, as other callbacks look for it at the end of an epoch
        self._kept: list[dict[str, Any]] | None = None  # every process's random generators as a checkpoint has them
        trial.keeps_itself = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the optimizers' rates. Raises ValueError for another run or other optimizers than the trial's."""
        optimizers = [plain(one) for one in trainer.optimizers]
        self._require_length(trainer, automatic=pl_module.automatic_optimization)
        require_optimizer(optimizers, self.trial)
        require_one_trial(self.trial)
        self._require_clipping(trainer, pl_module)
        given: Sequence[list[float] | None] = self._given or [None] * len(optimizers)
        first = Rates(self.trial, optimizers[0], given=given[0])
        others = zip(optimizers[1:], given[1:], strict=True)
        self._rates = [first, *(Rates(self.trial, one, first.given[0], given=rates) for one, rates in others)]
        done = self._done or [trainer.global_step // len(optimizers)] * len(optimizers)
        self._updates, self._done = [], []
        for one, number in zip(optimizers, done, strict=True):
            self._follow(one, number)
        require_start(self._step, self.trial, "write trainer.fit(..., ckpt_path=checkpoint(trial))")
        self._require_resumable(trainer)
        start: int = self.trial.start
        if self._kept is not None and start:
            set_generators(_own(self._kept))
        self._kept = None
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._measured.items()})
        self._set_all()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where a stage ends."""
        self._count(trainer)
        if ends_stage(self.trial, self._step) and not trainer.should_stop:
            loop = trainer.fit_loop
            if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
                self._before = generators()
            trainer.check_val_every_n_epoch = 1
            _stop(trainer)  # Lightning then validates

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
        self._measured = measured
        if self.trial.report(self._step, **measured):
            _stop(trainer)
        if self._before is not None:
            set_generators(self._before)
            self._before = None
        if paused(self.trial):
            self.trial.keep(self._step, lambda path: trainer.save_checkpoint(path / FILE))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizers be. Raises ValueError for a run that went to its end and is shorter than the trial."""
        self._count(trainer)
        self._leave()
        if not trainer.should_stop and not trainer.interrupted and self._step < self.trial.steps:
            need = f"max_steps={self.trial.steps * len(self._updates)}, which counts the steps of all optimizers,"
            require_length(self._step, self.trial, f"Trainer({need} and as many batches)")

    def state_dict(self) -> dict[str, Any]:
        """How many updates each optimizer has made, and every process's random generators of a trial in stages."""
        made: dict[str, Any] = {"updates": [one.done for one in self._updates], "measured": self._measured}
        made |= {"given": [one.given for one in self._rates]}
        return made | {"generators": Team().gathered(generators())} if self.trial.in_stages else made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after them."""
        self._done, self._kept = list(state_dict["updates"]), state_dict.get("generators")
        self._measured = dict(state_dict.get("measured", {}))
        self._given = state_dict.get("given")

    @property
    def _step(self) -> int:
        """How many steps of the trial are done."""
        return max((one.done for one in self._updates), default=0)

    def _require_length(self, trainer: Trainer, *, automatic: bool) -> None:
        """What can be known: a module that optimizes by itself makes as many updates as it likes."""
        found = trainer.estimated_stepping_batches
        if automatic or found in (-1, float("inf")):
            require_length(found, self.trial, f"Trainer(max_steps={self.trial.steps})")

    def _require_clipping(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise ValueError for gradients that Lightning clips otherwise; a module that clips by itself is not seen."""
        own = type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
        if module.automatic_optimization and not own:
            found, by = trainer.gradient_clip_val, trainer.gradient_clip_algorithm or "norm"
            norm, value = (None, found) if by == "value" else (found, None)
            kind = "value" if self.trial.configuration.clip_norm is None else "norm"
            own_way = f'gradient_clip_val=trial.configuration.clip_{kind}, gradient_clip_algorithm="{kind}"'
            remedy = f"write Trainer({own_way})"
            matching.require_clipping(self.trial.configuration, norm=norm, value=value, by_value=True, remedy=remedy)

    def _require_resumable(self, trainer: Trainer) -> None:
        """Raise ValueError for a run whose place in its data nobody keeps."""
        if not self.trial.in_stages:
            return
        if not hasattr(trainer.train_dataloader, "state_dict"):
            found = f"found {type(trainer.train_dataloader).__name__}, whose place is not kept"
            raise ValueError(f"{found}; for a trial in stages, write trainer.fit(module, resumable(loader), ...)")

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
