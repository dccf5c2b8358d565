"""A sharded training (DTensor) in stages: torch's distributed checkpoint, which executes nothing as it is read."""

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import in_stages, stage

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def train(trial: LoopTrial) -> list[float]:
    """Layers sharded by hand in two dimensions, as tensor parallelism with FSDP lays them out."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(trial.seed)
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "model"))
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1))
    parallelize_module(model, mesh["model"], {"0": ColwiseParallel(), "3": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    optimizer, losses = trial.optimizer(model.parameters()), list[float]()
    start = trial.restore(model=model, optimizer=optimizer)
    scheduler = trial.scheduler(optimizer, step=start)
    for step in range(start + 1, trial.until + 1):
        loss = model(torch.randn(5, 4)).pow(2).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), scheduler.step()
        losses.append(loss.item())
        if trial.report(step, val_loss=loss.item()):
            break
    return losses


def test_a_sharded_training_paused_twice_is_the_one_of_one_piece(tmp_path: Path) -> None:
    whole = in_stages(tmp_path, train, [STEPS])
    assert in_stages(tmp_path, train, [4, 9, STEPS]) == whole


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("evil", "names posix.mkdir"),
        ("damaged", "is not what was written"),
        ("gone", "is not what was written"),
        ("of two", "was kept by 2 processes, and this run has 1"),
    ],
    ids=lambda one: one.split()[0],
)
def test_what_is_no_checkpoint_of_ours_is_never_executed_and_the_trial_begins_again(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    first = stage(tmp_path, 0, 5, None)
    losses = train(first)
    name = first._door.end.checkpoint  # type: ignore[attr-defined]
    metadata, shard = (tmp_path / name / file for file in (".metadata", "__0_0.distcp"))
    if how == "evil":
        metadata.write_bytes(pickle.dumps(Evil()))
    elif how == "damaged":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif how == "gone":
        shard.unlink()
    if how in ("evil", "of two"):
        name = forged(tmp_path, name, 2 if how == "of two" else 1)
    again = stage(tmp_path, 5, STEPS, name)
    assert train(again)[:5] == losses
    assert (again.start, again._door.began) == (0, 0)  # type: ignore[attr-defined]
    assert "trial 0 begins again" in caplog.text
    assert said in caplog.text
    assert not (tmp_path / "executed").exists()


def forged(folder: Path, name: str, processes: int) -> str:
    """The checkpoint as somebody writes it who knows how its digests are made."""

    def digest(file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:32]

    listed = folder / name / "digests.json"
    said = json.loads(listed.read_text())
    said = {"processes": processes, "files": said["files"]}
    said["files"] = {file: digest(folder / name / file) for file in said["files"]}
    listed.write_text(json.dumps(said))
    made = f"trial-0-step-5-{digest(listed)}"
    (folder / name).rename(folder / made)
    return made
