"""`python -m worker.check my_tasks:Vision`, which `lrtune check` runs: a few steps of everything, judged in words.

Exit codes: 0 nothing is wrong, 1 something is, 2 the command was badly put.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.errors import LrtuneError, TaskError
from lrtune.optimizers import optimizer
from lrtune.printable import printable
from lrtune.task import Batch, Task, moved
from lrtune.uploads import mirror
from worker.determinism import make_deterministic
from worker.optimizers import build
from worker.tasks import own
from worker.traces import theirs, words

STEPS = 3
MOST_BATCHES = 200  # looked at for an end
CPU = torch.device("cpu")


def problems(path: str, params: Mapping[str, Any], data_dir: Path) -> Iterator[str]:
    """Every sentence about what is wrong with a task; where a step fails, those that need it are left out."""
    try:
        cls = own.load(path)
        own.summary(path, cls)
        make_deterministic(0)
        task = own.make(path, cls, params, data_dir)
        yield from _model(task)
        yield from _batches(task)
        yield from _loss(task)
        yield from _evaluation(task)
    except LrtuneError as error:
        yield str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        yield f"it raised {words(error)}\n{theirs(error)}"


def _fresh(task: Task) -> nn.Module:
    make_deterministic(0)
    model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"model: found {type(model).__name__}; accepted is a torch.nn.Module")
    return model


def _model(task: Task) -> Iterator[str]:
    first, second = _fresh(task), _fresh(task)
    if first is second:
        raise TaskError("model: it gave the same object twice; every trial needs a new one")
    if away := {str(one.device) for one in first.parameters() if one.device != CPU}:
        yield f"model: found weights on {', '.join(away)}; leave it on the CPU, the trainer moves it"
    if not all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values())):  # noqa: B905
        yield "model: the same seed gave other weights; they are to come from torch's global generator"


def _batches(task: Task) -> Iterator[str]:
    epoch = task.steps_per_epoch
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise TaskError(f"steps_per_epoch: found {epoch!r}; accepted is a whole number of at least 1")
    one, again, other = (list(islice(task.batches(seed), STEPS)) for seed in (0, 0, 1))
    wanted = min(epoch + 1, MOST_BATCHES)
    drawn = sum(1 for _ in islice(task.batches(0), wanted))
    if drawn < wanted:
        raise TaskError(f"batches: they ran dry after {drawn}; they must go on without end, epoch after epoch")
    if not _same(one, again):
        yield "batches: the same seed gave other batches; everything random in them is to come from the seed"
    elif epoch > 1 and _same(one, other):
        yield "batches: they ignore the seed; another seed is to give another order"


def _loss(task: Task) -> Iterator[str]:
    model, twin = _fresh(task), _fresh(task)
    for each in (model, twin):
        each.train()
    batches = list(islice(task.batches(0), STEPS))
    first = task.loss(_seeded(model), batches[0])
    if not isinstance(first, Tensor) or first.numel() != 1 or first.dim() != 0:
        found = f"a tensor of shape {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise TaskError(f"loss: found {found}; accepted is one scalar tensor, such as a mean over the batch")
    if not bool(torch.isfinite(first)):
        raise TaskError(f"loss: found {first.item()} at the initial weights; accepted is a finite number")
    if not first.requires_grad:
        raise TaskError("loss: no gradient can flow from it; is it detached, or computed without the model?")
    losses, missed = _trained(task, _fresh(task).train(), batches)
    if missed:
        names = ", ".join(missed[:3]) + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
        yield f"loss: no gradient reaches {names}; use them, or freeze them with requires_grad_(False)"
    if losses != _trained(task, twin, batches)[0]:
        yield "loss: not deterministic: the same seed, weights and batches gave other losses"
    yield from _device(task, model, batches[0])


def _trained(task: Task, model: nn.Module, batches: list[Batch]) -> tuple[list[float], list[str]]:
    """The losses of a few steps, and the parameters that no gradient has reached."""
    stepper = build(optimizer("sgd"), _seeded(model), learning_rate=1e-3, groups=task.groups(model))
    losses, reached = [], set[str]()
    for batch in batches:
        stepper.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        reached |= {name for name, one in model.named_parameters() if one.grad is not None}
        stepper.step()
    return losses, [name for name, one in model.named_parameters() if one.requires_grad and name not in reached]


def _device(task: Task, model: nn.Module, batch: Batch) -> Iterator[str]:
    """Try the loss on torch's device without memory: tensors that stay on the CPU show themselves, even with no GPU."""
    meta = torch.device("meta")
    try:
        task.to(meta).loss(model.to(meta), moved(batch, meta))
    except Exception as error:  # much cannot be done there; only this complaint counts
        if "same device" in str(error) or "expected device" in str(error):
            yield f"loss: it mixes devices, so it would fail on a GPU: {words(error)}"


def _evaluation(task: Task) -> Iterator[str]:
    model = _fresh(task).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        found = task.evaluate(model)
    drew = not torch.equal(state, torch.get_rng_state())
    if not isinstance(found, Mapping):
        raise TaskError(f"evaluate: found {type(found).__name__}; accepted is a mapping of names to numbers")
    if missing := [name for name in task.metrics if name not in found]:
        yield f"evaluate: it does not give {', '.join(missing)}, which the task says it measures"
    if bad := [f"{name} is {float(value)}" for name, value in found.items() if not torch.isfinite(torch.tensor(value))]:
        yield f"evaluate: {', '.join(bad)} at the initial weights; accepted are finite numbers"
    if impossible := [name for name in task.ranges if name in found and not _inside(found[name], task.ranges[name])]:
        yield f"evaluate: {', '.join(impossible)} beyond the range that the task gives it in `ranges`"
    if any(not torch.equal(before[name], value) for name, value in model.state_dict().items()):
        yield "evaluate: it changes the model's weights or buffers; it is only to look"
    if drew:
        yield "evaluate: it draws from torch's global generator, so reporting changes the training; use one of its own"


def _inside(value: float, ends: tuple[float | None, float | None]) -> bool:
    low, high = ends
    return not ((low is not None and value < low) or (high is not None and value > high))


def _seeded(model: nn.Module) -> nn.Module:
    make_deterministic(0)
    return model


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


def _folder(named: str) -> Path:
    return Path(str(mirror.place(named)))


def main(arguments: list[str] | None = None) -> int:
    """Check a task and say what is wrong; the exit status."""
    parser = argparse.ArgumentParser(prog="lrtune check", description=__doc__)
    parser.add_argument("task", help="an import path such as my_tasks:Vision")
    parser.add_argument("--params", default="{}", help="the task's parameters, as JSON")
    data_dir = os.environ.get("LRTUNE_DATA_DIR") or ".lrtune/data"
    parser.add_argument("--data-dir", type=_folder, default=data_dir)
    asked = parser.parse_args(arguments)
    try:
        params = json.loads(asked.params)
    except ValueError as error:
        params = error
    if not isinstance(params, dict):
        print(f"--params: found {asked.params!r}; accepted is a JSON object", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found = list(problems(asked.task, params, asked.data_dir))
    for sentence in found:
        print(f"wrong: {printable(sentence)}")
    if not found:
        print(f"{asked.task} is good: its model, batches, loss and evaluation do what a task is to do")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
