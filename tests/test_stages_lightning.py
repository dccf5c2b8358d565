"""Lightning in stages: a run that was paused twice is the one of one piece, bit for bit."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.adapters.lightning import TrialCallback, checkpoint, resumable
from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import in_stages, range_test, stage

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))


class Net(pl.LightningModule):
    def __init__(self, trial: LoopTrial, slow: float | None = None) -> None:
        super().__init__()
        self.slow = slow
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1))
        self.trial, self.losses = trial, list[float]()

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.net(batch[0]).pow(2).mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.net(batch[0]).pow(2).mean())

    def configure_optimizers(self) -> Any:
        first, *rest = self.net.parameters()
        if self.slow is None:
            return self.trial.optimizer([first, *rest])
        rate = self.trial.configuration.learning_rate
        return self.trial.optimizer([{"params": [first]}, {"params": rest, "lr": rate * self.slow}])


def train(
    trial: LoopTrial,
    *,
    wrap: Any = resumable,
    resume: bool = True,
    own: Any = (),
    slow: float | None = None,
    **options: Any,
) -> Any:
    pl.seed_everything(trial.seed, verbose=False)
    module = Net(trial, slow)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "logger": False, "max_steps": trial.steps, "max_epochs": -1}
    found = pl.Trainer(**(quiet | options), callbacks=[TrialCallback(trial), *own])
    loader = wrap(DataLoader(TensorDataset(X), batch_size=8, shuffle=True))
    path = checkpoint(trial) if resume else None
    found.fit(module, loader, DataLoader(TensorDataset(X[:8]), batch_size=8), ckpt_path=path)
    return module.losses, [one.tolist() for one in module.state_dict().values()]


SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "its own validations": {"val_check_interval": 2},
    "seldom validated": {"check_val_every_n_epoch": 2},
    "epochs that it has to make": {"min_epochs": 2},
}


@pytest.mark.parametrize("ends", [[4, 9, STEPS], [5, 10, STEPS], [6, 8, STEPS]], ids=str)
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_fit_paused_twice_trains_bit_for_bit_as_in_one_piece(
    options: dict[str, Any], ends: list[int], tmp_path: Path
) -> None:
    last: list[Any] = []

    def one(trial: LoopTrial) -> list[float]:
        losses, last[:] = train(trial, **options)
        return losses

    whole = in_stages(tmp_path, one, [STEPS])
    weights = list(last)
    assert in_stages(tmp_path, one, ends) == whole
    assert last == weights


def test_groups_keep_their_ratios_where_weights_are_averaged_in_a_later_stage(tmp_path: Path) -> None:
    """Lightning's callback writes its own rate over what each group began with, which the checkpoint then has."""

    def one(trial: LoopTrial) -> Any:
        return train(trial, own=[StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)], slow=0.01)[0]

    assert in_stages(tmp_path, one, [7, 10, STEPS]) == in_stages(tmp_path, one, [STEPS])


def test_a_script_that_stops_early_by_itself_goes_on_where_an_epoch_has_ended(tmp_path: Path) -> None:
    def one(trial: LoopTrial) -> Any:
        return train(trial, own=[EarlyStopping("val_loss", patience=100)])[0]

    assert in_stages(tmp_path, one, [5, 10, STEPS]) == in_stages(tmp_path, one, [STEPS])


def test_what_cannot_go_on_is_refused_in_words_and_what_is_gone_begins_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found DataLoader, whose place is not kept; .*resumable\(loader\)"):
        train(stage(tmp_path, 0, 5, None), wrap=lambda loader: loader)
    gone = "trial-0-step-5-" + "0" * 32
    with pytest.raises(ValueError, match=r"begins after step 0; this trial goes on after 5: write trainer.fit"):
        train(stage(tmp_path, 5, STEPS, gone), resume=False)
    trial = stage(tmp_path, 5, STEPS, gone)
    assert train(trial) == train(stage(tmp_path, 0, STEPS, None))
    assert trial._door.began == 0  # type: ignore[attr-defined]


def test_a_range_test_ends_at_its_own_end_in_a_script_of_the_jobs_length(tmp_path: Path) -> None:
    trial = range_test(tmp_path, 6)
    losses, _ = train(trial, max_steps=STEPS)
    assert len(losses) == 6
    assert [one.step for one in trial._door.sent][-1] == 6  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="found a run of 5 steps; this trial has 6"):
        train(range_test(tmp_path, 6), max_steps=5)
