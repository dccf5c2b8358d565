"""A trial in Lightning's Trainer: what each update used is the trial's rate, as the optimizer writes it down."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrtune.adapters.lightning import TrialCallback
from lrtune.loop import LoopTrial
from tests.offline import ADAMW, SGD, STEPS, held, rates
from tests.recording import WARMUPS, recording, two_groups

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]


class Module(pl.LightningModule):
    """A linear model with one optimizer, and a scheduler of its own where one is given."""

    def __init__(self, own: Any = None, groups: bool = False) -> None:
        super().__init__()
        self.linear, self.own = nn.Linear(3, 1), own
        self.made = [two_groups(self.linear) if groups else recording(self.linear)]

    def training_step(self, batch: Any, index: int) -> Any:
        return self.linear(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.linear(batch[0]).pow(2).mean())

    def configure_optimizers(self) -> Any:
        if self.own is None:
            return self.made[0]
        return [self.made[0]], [{"scheduler": self.own(self.made[0]), "interval": "step"}]


class Two(Module):
    """Two optimizers, stepped by hand as often each as `often` says, every `every` batches."""

    def __init__(self, often: tuple[int, int] = (1, 1), every: int = 1) -> None:
        super().__init__()
        self.automatic_optimization, self.often, self.every = False, often, every
        self.other = nn.Linear(3, 1)
        self.made.append(recording(self.other, lr=4e-3))

    def training_step(self, batch: Any, index: int) -> None:
        if (index + 1) % self.every:
            return
        for optimizer, often in zip(self.optimizers(), self.often, strict=True):
            for _ in range(often):
                optimizer.zero_grad()
                self.manual_backward((self.linear(batch[0]) + self.other(batch[0])).pow(2).mean())
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return self.made


def batches(count: int = STEPS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(count * 2, 3)), batch_size=2)


class Endless(IterableDataset[Any]):
    """Examples without an end, and without a length."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield (torch.rand(3),)


def fit(
    trial: LoopTrial | None, module: Module, loader: Any = None, ckpt_path: Any = None, **options: Any
) -> pl.Trainer:
    callbacks = [*([TrialCallback(trial)] if trial else []), *options.pop("callbacks", [])]
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    kept: dict[str, Any] = {"enable_checkpointing": False, "logger": False}
    found = pl.Trainer(**(quiet | kept | options), callbacks=callbacks)
    found.fit(module, batches() if loader is None else loader, batches(1), ckpt_path=ckpt_path)
    return found


LIGHTNING: dict[str, tuple[Any, dict[str, Any]]] = {
    "steps": (None, {"max_steps": STEPS}),
    "epochs": (None, {"max_epochs": 1}),
    "steps, and epochs without an end": (None, {"max_steps": STEPS, "max_epochs": -1}),
    "fewer steps than epochs": (batches(STEPS), {"max_steps": STEPS, "max_epochs": 9}),
    "accumulation": (batches(2 * STEPS), {"max_epochs": 1, "accumulate_grad_batches": 2}),
    "a part of a batch left over": (batches(7), {"max_epochs": 3, "accumulate_grad_batches": 2}),
    "an endless stream": (DataLoader(Endless(), batch_size=2), {"max_steps": STEPS, "val_check_interval": 4}),
}


@pytest.mark.parametrize(("loader", "options"), LIGHTNING.values(), ids=LIGHTNING)
def test_lightning_updates_at_the_trials_rates(loader: Any, options: dict[str, Any]) -> None:
    trial, module = held(ADAMW), Module()
    fit(trial, module, loader, **options)
    assert module.made[0].rates == rates(trial)


@pytest.mark.parametrize("own", WARMUPS.values(), ids=WARMUPS)
def test_a_modules_own_warm_up_is_overruled_and_its_groups_keep_their_ratios(own: Any, tmp_path: Path) -> None:
    trial, module = held(ADAMW), Module(own, groups=True)
    found = fit(trial, module, max_steps=STEPS, callbacks=[LearningRateMonitor("step")], logger=True,
                default_root_dir=tmp_path, log_every_n_steps=1)  # fmt: skip
    assert module.made[0].rates == rates(trial)
    assert [second for _, second in module.made[0].used] == pytest.approx([rate / 4 for rate in rates(trial)])
    assert found.global_step == STEPS


@pytest.mark.parametrize(
    "options", [{"max_epochs": 1}, {"max_steps": 2 * STEPS}, {"max_steps": 2 * STEPS, "max_epochs": -1}]
)
def test_two_optimizers_run_through_the_schedule_once(options: dict[str, Any]) -> None:
    trial, module = held(ADAMW), Two()
    fit(trial, module, **options)
    assert module.made[0].rates == rates(trial)
    assert module.made[1].rates == pytest.approx([4 * rate for rate in rates(trial)])
    assert trial.over or trial._door.sent[-1].step == STEPS


def test_an_optimizer_that_steps_less_often_stays_with_the_other() -> None:
    trial, module = held(ADAMW), Two(often=(3, 1))
    fit(trial, module, batches(4), max_epochs=1)
    assert module.made[0].rates == rates(trial)
    assert module.made[1].rates == pytest.approx([4 * rate for rate in rates(trial)[2::3]])


def test_accumulation_by_hand_counts_updates() -> None:
    trial, module = held(ADAMW), Two(every=2)
    fit(trial, module, batches(2 * STEPS), max_epochs=1)
    assert module.made[0].rates == rates(trial)


@pytest.mark.parametrize(("kind", "every"), [(Module, 5), (Two, 10)], ids=["one optimizer", "two"])
@pytest.mark.parametrize("followed", [True, False], ids=["kept by a trial's run", "kept by the plain script"])
def test_lightning_resumes_at_its_step(kind: type[Module], every: int, followed: bool, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trial, options = held(ADAMW), {"callbacks": [keep], "enable_checkpointing": True}
    fit(trial if followed else None, kind(), max_epochs=1, **options)
    module = kind()
    fit(trial, module, ckpt_path=tmp_path / f"step={every}.ckpt", max_epochs=1)
    assert module.made[0].rates == rates(trial, 5)


def test_a_fit_goes_on_where_the_one_before_ended() -> None:
    trial, module = held(ADAMW), Two()
    found = pl.Trainer(
        max_steps=2 * STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, limit_train_batches=5,
        callbacks=[TrialCallback(trial), EarlyStopping("val_loss", patience=1, min_delta=1e9)], num_sanity_val_steps=0,
    )  # fmt: skip
    found.fit(module, batches(), batches(1))
    before = len(module.made[0].rates)
    found.callbacks = [one for one in found.callbacks if not isinstance(one, EarlyStopping)]
    found.fit(module, batches(), batches(1))
    assert 0 < before < STEPS
    assert module.made[0].rates == rates(trial)


def test_early_stopping_and_the_service_both_end_a_fit() -> None:
    stopped, module = held(ADAMW, stop=4), Module()
    fit(stopped, module, max_steps=STEPS, val_check_interval=2)
    assert module.made[0].rates == rates(stopped)[:4]
    trial, module = held(ADAMW), Module()
    early = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    fit(trial, module, max_steps=STEPS, val_check_interval=2, callbacks=[early])
    assert module.made[0].rates == rates(trial)[:4]


@pytest.mark.parametrize(
    ("module", "loader", "options", "words"),
    [
        (Module, None, {"max_epochs": -1}, r"without an end; this trial has 12: accepted is Trainer\(max_steps=12"),
        (Module, DataLoader(Endless()), {"max_epochs": 1, "val_check_interval": 9}, "found a run without an end"),
        (Module, None, {"max_steps": 5}, "found a run of 5 steps; this trial has 12"),
        (Two, None, {"max_epochs": -1}, "found a run without an end"),
        (Two, None, {"max_steps": STEPS}, r"found a run of 6 steps; this trial has 12: .*max_steps=24, which"),
        (Two, None, {"max_epochs": 2}, "found a run of 13 steps; this trial has 12"),
    ],
)  # fmt: skip
def test_lightning_refuses_a_run_of_another_length(
    module: Any, loader: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        fit(held(ADAMW), module(), loader, **options)


def test_lightning_refuses_another_optimizer() -> None:
    with pytest.raises(ValueError, match="found adamw, and this trial is one of sgd"):
        fit(held(SGD), Module(), max_steps=STEPS)


@pytest.mark.parametrize("by", ["norm", "value"])
def test_lightning_refuses_gradients_clipped_otherwise_than_the_job_says(by: str) -> None:
    trial = held(ADAMW | {f"clip_{by}": 2.0})
    with pytest.raises(ValueError, match=f"clipped by {by} at 0.5, and this trial clips at 2; write Trainer"):
        fit(trial, Module(), max_steps=STEPS, gradient_clip_val=0.5, gradient_clip_algorithm=by)
    fit(held(ADAMW | {f"clip_{by}": 2.0}), Module(), max_steps=STEPS, gradient_clip_val=2, gradient_clip_algorithm=by)
