"""A loop that `torchrun` or `accelerate launch` runs in two processes; each writes down the rates that it used.

`python -m tests.two_processes FOLDER KIND ...`, started by test_adapters_processes.py.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrtune.adapters.distributed import together
from lrtune.loop import LoopTrial, trials
from tests.offline import ADAMW, STEPS, Door, handout
from tests.recording import Recording

PLATEAU: dict[str, Any] = ADAMW | {
    "schedule": {"family": "plateau", "factor": 0.5, "patience": 1, "threshold": 0.0}, "warmup": 0.0
}  # fmt: skip


def updates(trial: Any, model: nn.Module, optimizer: Any, scheduler: Any, backward: Any, every: int = 1) -> None:
    """Report the loss of one's own process, which the first alone is heard with."""
    for batch in range(1, every * trial.steps + 1):
        optimizer.zero_grad()
        loss = model(torch.full((2, 3), float(distributed.get_rank() + 1))).sum()
        backward(loss)
        optimizer.step()
        scheduler.step()
        if batch % (2 * every) == 0 and trial.report(
            batch // every, val_loss=loss.item() + 100 * distributed.get_rank()
        ):
            break


def plain(trial: Any, folder: Path) -> list[float]:
    torch.manual_seed(trial.seed)
    model = DistributedDataParallel(nn.Linear(3, 1))
    optimizer = Recording(model.parameters())
    updates(trial, model, optimizer, trial.scheduler(optimizer), torch.Tensor.backward)
    return optimizer.rates


def accelerated(trial: Any, folder: Path) -> list[float]:
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), nn.Linear(3, 1)
    optimizer = Recording(model.parameters())
    scheduler = trial.scheduler(optimizer)
    model, wrapped, scheduler = accelerator.prepare(model, optimizer, scheduler)
    updates(trial, model, wrapped, scheduler, accelerator.backward)
    return optimizer.rates


def huggingface(trial: Any, folder: Path) -> list[float]:
    from tests.test_adapters_transformers import trainer, used

    found = trainer(trial, folder, eval_strategy="steps", eval_steps=2, warmup_steps=3)
    found.train()
    return used(found)


def lightning(trial: Any, folder: Path) -> list[float]:
    from tests.test_adapters_lightning import Module, batches, fit

    module = Module()
    fit(trial, module, batches(2 * STEPS), max_steps=STEPS, strategy="ddp", devices=2, val_check_interval=2)
    return module.made[0].rates


def alone() -> str:
    """What a script hears that knows nothing of other processes: each takes a trial of its own."""
    own = LoopTrial(Door(handout(ADAMW)), f"job {distributed.get_rank()}", handout(ADAMW))
    try:
        plain(own, Path())
    except ValueError as error:
        return str(error)
    return ""


KINDS = {one.__name__: one for one in (plain, accelerated, huggingface, lightning)}


def trained(kind: str, folder: Path) -> dict[str, Any]:
    """Three trials one after another: a whole one, one that the service stops, one that looks at the loss."""
    metric = "eval_loss" if kind == "huggingface" else "val_loss"
    asked = ((ADAMW, None), (ADAMW | {"learning_rate": 0.7}, 6), (PLATEAU, None))
    doors = [Door(handout(configuration, metric=metric), stop) for configuration, stop in asked]
    used = []
    for trial in together(one for door in doors for one in trials(door, "job")):
        with trial:
            used.append(KINDS[kind](trial, folder))
    return {"used": used, "sent": [[(one.step, one.metrics[metric]) for one in door.sent] for door in doors]}


def main(folder: Path, kinds: list[str]) -> None:
    found = {kind: trained(kind, folder) for kind in kinds} | {"alone": alone()}
    (folder / f"{distributed.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # to take the frameworks apart takes seconds
