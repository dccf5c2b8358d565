"""Accelerate in stages: a run that was paused twice is the one of one piece, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrtune.adapters.accelerate import restore
from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import in_stages, stage

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]


def train(trial: LoopTrial, every: int = 1) -> tuple[list[float], list[Any]]:
    """Train in updates of so many batches each."""
    torch.manual_seed(trial.seed)
    model: Any = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1))
    optimizer: Any = trial.optimizer(model.parameters())
    made = torch.Generator().manual_seed(3)
    loader: Any = DataLoader(TensorDataset(torch.randn(40, 3, generator=made)), batch_size=8, shuffle=True)
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    start, losses = restore(trial, accelerator), list[float]()
    scheduler = trial.scheduler(optimizer, step=start)
    batches = trial.batches(loader)
    for step in range(start, trial.until):
        for _ in range(every):
            loss = model(next(batches)[0]).pow(2).mean() / every
            accelerator.backward(loss)
            losses.append(loss.item())
        optimizer.step(), optimizer.zero_grad(), scheduler.step()
        if trial.report(step + 1, val_loss=loss):
            break
    return losses, [one.tolist() for one in model.parameters()]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("ends", [[4, 9, STEPS], [5, 10, STEPS]], ids=str)
def test_an_accelerated_loop_paused_twice_trains_bit_for_bit_as_in_one_piece(
    ends: list[int], every: int, tmp_path: Path
) -> None:
    last: list[Any] = []

    def one(trial: LoopTrial) -> list[float]:
        losses, last[:] = train(trial, every)
        return losses

    whole = in_stages(tmp_path, one, [STEPS])
    weights = list(last)
    assert in_stages(tmp_path, one, ends) == whole
    assert last == weights


def test_an_accelerated_loop_begins_again_where_its_checkpoint_is_gone(tmp_path: Path) -> None:
    trial = stage(tmp_path, 5, STEPS, "trial-0-step-5-" + "0" * 32)
    assert train(trial) == train(stage(tmp_path, 0, STEPS, None))
    assert trial._door.began == 0  # type: ignore[attr-defined]
