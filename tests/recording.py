"""An optimizer of torch's that writes down the rates that it steps with, and warm-ups as scripts have them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler


class Recording(torch.optim.AdamW):
    """Writes down what it steps with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.used: list[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.used.append([group["lr"] for group in self.param_groups])
        return super().step(closure)

    @property
    def rates(self) -> list[float]:
        return [used[0] for used in self.used]


def recording(model: nn.Module, *, lr: float = 1e-3, **options: Any) -> Recording:
    return Recording(model.parameters(), lr=lr, **options)


def two_groups(model: nn.Linear) -> Recording:
    return Recording([{"params": [model.weight], "lr": 2e-3}, {"params": [model.bias], "lr": 5e-4}])


WARMUPS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "linear from nothing": lambda one: lr_scheduler.LambdaLR(one, lambda step: min(1.0, step / 5)),
    "a part of the rate": lambda one: lr_scheduler.LinearLR(one, start_factor=0.01, total_iters=4),
    "two in a row": lambda one: lr_scheduler.SequentialLR(
        one, [lr_scheduler.LinearLR(one, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(one, 9)], [3]
    ),
}
