"""Trials in stages that `torchrun` trains in two processes; each writes down the losses that it saw.

`python -m tests.two_stages FOLDER KIND ...`, started by test_stages_processes.py.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lrtune import errors
from lrtune.adapters.distributed import together
from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import Pausing, stage

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
Train = Callable[[LoopTrial], list[float]]


def net(trial: Any) -> nn.Module:
    torch.manual_seed(trial.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, 1))


def updates(trial: Any, model: nn.Module, optimizer: Any, start: int) -> list[float]:
    """Updates of two batches each; the first process alone measures, and the second one is asked to go."""
    torch.manual_seed(100 * start + distributed.get_rank()) if start == 0 else None
    loader = DataLoader(TensorDataset(X), batch_size=4, sampler=DistributedSampler(TensorDataset(X), seed=trial.seed))
    scheduler, losses, batches = trial.scheduler(optimizer, step=start), list[float](), trial.batches(loader)
    for step in range(start + 1, trial.until + 1):
        optimizer.zero_grad()
        for _ in range(2):
            loss = model(next(batches)[0]).pow(2).mean() / 2
            loss.backward()
            losses.append(loss.item())
        optimizer.step(), scheduler.step()
        if distributed.get_rank() == 1 and (trial.until, step) == (9, 6):
            trial.interrupt("its host has to go")
        if trial.report(step, **({"val_loss": loss.item()} if distributed.get_rank() == 0 else {})):
            break
    return losses


def plain(trial: Any) -> list[float]:
    """What is restored has other wrappers around it from stage to stage."""
    model = net(trial)
    optimizer, wrapped = trial.optimizer(model.parameters()), DistributedDataParallel(model)
    restored = {0: wrapped, 5: model}.get(trial.start, torch.compile(model))
    return updates(trial, wrapped, optimizer, trial.restore(model=restored, optimizer=optimizer))


def sharded(trial: Any) -> list[float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = net(trial), init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh), fully_shard(model, mesh=mesh)  # type: ignore[index]
    optimizer = trial.optimizer(model.parameters())
    return updates(trial, model, optimizer, trial.restore(model=model, optimizer=optimizer))


def accelerated(trial: Any) -> list[float]:
    from tests.test_stages_accelerate import train

    return train(trial)[0]


def huggingface(trial: Any) -> list[float]:
    from tests.test_stages_transformers import train

    return train(trial, Path("out"))[0]


def lightning(trial: Any) -> list[float]:
    from tests.test_stages_lightning import train

    losses: list[float] = train(trial, strategy="ddp", devices=2)[0]
    return losses


KINDS = {one.__name__: one for one in (plain, sharded, accelerated, huggingface, lightning)}


def stages(folder: Path, ends: list[int], metric: str) -> Iterator[LoopTrial]:
    """The stages of one trial, each from where the one before was kept."""
    state, start, checkpoint = "paused", 0, None
    while state == "paused":
        trial = stage(folder, start, next(end for end in ends if end > start), checkpoint, metric=metric)
        trial._job = folder.name
        yield trial
        door = trial._door
        assert isinstance(door, Pausing)
        assert door.end is not None
        state, start, checkpoint = door.end.state, door.end.step or 0, door.end.checkpoint
        print(state, start, checkpoint)


def trained(train: Train, folder: Path, ends: list[int]) -> list[float]:
    losses = list[float]()
    metric = "eval_loss" if train is huggingface else "val_loss"
    for trial in together(stages(folder, ends, metric)):
        with trial:
            losses += train(trial)
    return losses


def refused(trial: Any) -> list[float]:
    trial.restore(model=nn.Linear(2, 2))
    trial.report(1 + distributed.get_rank(), val_loss=1.0)
    return []


def unlucky(trial: Any) -> list[float]:
    """The second process raises while the first one waits for something else."""
    if distributed.get_rank():
        raise ValueError("out of luck")
    trial._left.wait(60)
    assert trial._door.end.state == "failed"
    raise ValueError(trial._door.end.reason)


def words(train: Train, folder: Path) -> str:
    """What all processes hear of what goes wrong in one."""
    try:
        trained(train, folder, [STEPS])
    except (errors.LrtuneError, ValueError) as error:
        return str(error)
    return ""


def main(folder: Path, kinds: list[str]) -> None:
    found: dict[str, Any] = {}
    for kind in kinds:
        whole, in_parts = (trained(KINDS[kind], folder / kind, ends) for ends in ([STEPS], [5, 9, STEPS]))
        found[kind] = {"whole": whole, "stages": in_parts}
    found |= {"uneven": words(refused, folder / "uneven"), "unlucky": words(unlucky, folder / "unlucky")}
    rank = distributed.get_rank()
    (folder / str(rank)).mkdir()
    os.chdir(folder / str(rank))
    found["apart"] = words(refused, Path("/proc/self/cwd/kept"))
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # to take the frameworks apart takes seconds
