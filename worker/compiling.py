"""`torch.compile` where it pays: measured on this task and this device, not guessed.

Both ways are timed on copies of the model, with batches of their own and the generators put back, so that the
measurement leaves no trace in the training. Compiling pays when the time that it saves over the steps still to come is
more than it takes.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn

from lrtune.task import Task, moved

WARM, TIMED = 2, 5  # steps of each way


def where_it_pays(
    model: nn.Module,
    task: Task,
    batches: Callable[[], Iterator[Any]],
    device: torch.device,
    *,
    steps: int,
    say: Callable[[str], None],
) -> nn.Module:
    """The model to train with over so many steps: compiled, or as it is; and why, in words, to `say`."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            plain, _ = _seconds(copy.deepcopy(model), task, batches(), device)
            quick, cost = _seconds(compiled(copy.deepcopy(model)), task, batches(), device)
        except Exception as error:  # whatever a compiler may raise, the model trains without it
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            say(f"torch.compile does not work here, trained without it: {first}")
            return model
    pays = steps * (plain - quick) > cost
    numbers = f"{1000 * plain:.3g} ms a step without, {1000 * quick:.3g} ms with, {cost:.2g} s to compile"
    say(f"torch.compile {'pays' if pays else 'does not pay'} over {steps} steps: {numbers}")
    return compiled(model) if pays else model


def compiled(model: nn.Module) -> nn.Module:
    """The same weights behind compiled code."""
    return cast(nn.Module, torch.compile(model))


def _seconds(model: nn.Module, task: Task, batches: Iterator[Any], device: torch.device) -> tuple[float, float]:
    """Seconds of one forward and backward pass, and of the first ones in all."""
    start = time.perf_counter()
    _pass(model, task, batches, device, WARM)
    warm = time.perf_counter()
    _pass(model, task, batches, device, TIMED)
    return (time.perf_counter() - warm) / TIMED, warm - start


def _pass(model: nn.Module, task: Task, batches: Iterator[Any], device: torch.device, times: int) -> None:
    for _ in range(times):
        model.zero_grad()
        task.loss(model, moved(next(batches), device)).backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
