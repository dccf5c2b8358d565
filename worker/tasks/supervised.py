"""Tasks that are arrays: inputs and targets, split into what is trained on and what is measured.

`digits`, `tabular` and `images` differ in how they make the arrays and the model; the rest is here.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lrtune.errors import TaskError
from lrtune.task import Task
from worker.tasks.batches import order, per_epoch

Pair: TypeAlias = tuple[Tensor, Tensor]
CHUNK = 1024  # examples evaluated at once
SPLIT_SEED = 20260  # the split is a fact of the task: the same for every trial of every job


@dataclass(frozen=True, slots=True)
class Classification:
    """Cross entropy over classes, and how many are right."""

    metrics = ("val_loss", "val_accuracy")

    def loss(self, outputs: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(outputs, targets, reduction=reduction)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many are right."""
        return (outputs.argmax(dim=1) == targets).float().sum()


@dataclass(frozen=True, slots=True)
class Regression:
    """Squared error of the standardised target, and the absolute error in the target's own unit."""

    unit: float  # one standard deviation of the target
    metrics = ("val_loss", "val_mae")

    def loss(self, outputs: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """The squared error."""
        return F.mse_loss(outputs.squeeze(1), targets, reduction=reduction)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of absolute errors."""
        return (outputs.squeeze(1) - targets).abs().sum() * self.unit


@dataclass(frozen=True)
class Supervised(Task):
    """A task made of arrays that fit into memory; `notes` are what its job's log is to say of its data."""

    train: Pair
    validation: Pair
    batch_size: int | Literal["full"]
    build: Callable[[], nn.Module]
    goal: Classification | Regression
    notes: tuple[str, ...] = ()
    metrics: Sequence[str] = field(init=False)
    steps_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", self.goal.metrics)
        object.__setattr__(self, "steps_per_epoch", per_epoch(len(self.train[1]), self.batch_size))

    def to(self, device: torch.device) -> Self:
        """The task with its arrays on the device."""
        train, validation = ((x.to(device), y.to(device)) for x, y in (self.train, self.validation))
        return dataclasses.replace(self, train=train, validation=validation)

    def model(self) -> nn.Module:
        """A new model."""
        return self.build()

    def batches(self, seed: int) -> Iterator[Pair]:
        """Inputs and targets, in the order of the seed."""
        return self.batches_from(seed, 0)

    def batches_from(self, seed: int, start: int) -> Iterator[Pair]:
        """The same without the first `start`."""
        x, y = self.train
        for places in order(len(y), self.batch_size, seed=seed, device=y.device, start=start):
            yield x[places], y[places]

    def loss(self, model: nn.Module, batch: Pair) -> Tensor:
        """The mean loss of a batch."""
        return self.goal.loss(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The means over all validation examples."""
        x, y = self.validation
        found, sums = list[Tensor](), torch.zeros(2, dtype=torch.float64)
        for inputs, targets in zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True):
            outputs = model(inputs)
            loss = self.goal.loss(outputs, targets, reduction="sum")
            found.append(torch.stack([loss, self.goal.score(outputs, targets)]))
        for each in torch.stack(found).cpu().double():  # one wait for the device
            sums += each
        return dict(zip(self.goal.metrics, (sums / len(y)).tolist(), strict=True))


def halves(targets: NDArray[Any], share: float | int, *, stratify: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which rows to train on and which to validate on: `share` of them, classes in proportion where that can be."""
    rows = np.arange(len(targets))
    held = math.ceil(share * len(rows)) if isinstance(share, float) else share
    if not 0 < held < len(rows):
        raise TaskError(f"validation: found {share:g} of {len(rows)} rows; at least one row must be left to train on")
    try:
        parts = train_test_split(rows, test_size=share, random_state=SPLIT_SEED, stratify=targets if stratify else None)
    except ValueError:  # a class with a single member, or fewer places than classes
        parts = train_test_split(rows, test_size=share, random_state=SPLIT_SEED)
    return parts[0], parts[1]


def mlp(inputs: int, hidden: list[int], outputs: int, *, dropout: float = 0.0) -> nn.Module:
    """A multi-layer perceptron with ReLU, and dropout after each hidden layer where it is wanted."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
