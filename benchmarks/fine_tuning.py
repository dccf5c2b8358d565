"""A fine-tuning that needs no download, for `benchmarks.live`: a task of one's own, as any operator could write it."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import TensorDataset

from lrtune.task import Model, Task

KNOWN, EACH, NOISE = 5, 30, 0.3  # classes learned before; examples of each new class; as the task `digits` has it
STEPS_BEFORE, RATE_BEFORE = 600, 2e-3


class FineTuning(Task):
    """A network that has learned the digits 0 to 4 is tuned to tell 5 to 9, from thirty examples of each."""

    metrics: Mapping[str, Any] = {"val_loss": "minimize", "val_accuracy": "maximize"}
    ranges = {"val_loss": (0, None), "val_accuracy": (0, 1)}
    steps = 240

    def __init__(self, params: Any = None, data_dir: Path = Path()) -> None:
        super().__init__(params, data_dir)
        pictures, labels = load_digits(return_X_y=True)
        random = np.random.default_rng(0)
        x = torch.tensor(pictures / 16 + NOISE * random.standard_normal(pictures.shape), dtype=torch.float32)
        y = torch.tensor(labels)
        new = np.flatnonzero(labels >= KNOWN)
        few = np.concatenate([random.permutation(new[labels[new] == label])[:EACH] for label in range(KNOWN, 10)])
        held = np.setdiff1d(new, few)
        self.few, self.held = (x[few], y[few] - KNOWN), (x[held], y[held] - KNOWN)
        self.body = _pretrained(x[labels < KNOWN], y[labels < KNOWN])

    def model(self) -> Model:
        """The body as it was trained before, and a new head."""
        return nn.Sequential(copy.deepcopy(self.body), nn.Linear(64, 10 - KNOWN))

    def train_set(self) -> TensorDataset:
        """The few examples of the new classes."""
        return TensorDataset(*self.few)

    def loss(self, model: Model, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The cross entropy."""
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: Model) -> Mapping[str, float]:
        """On all other examples of the new classes, at once."""
        outputs = model(self.held[0])
        right = (outputs.argmax(dim=1) == self.held[1]).float().mean()
        return {"val_loss": float(F.cross_entropy(outputs, self.held[1])), "val_accuracy": float(right)}


def _pretrained(x: Tensor, y: Tensor) -> nn.Module:
    """A body that has learned some classes, the same ones each time, whatever is drawn elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        model = nn.Sequential(body, nn.Linear(64, KNOWN))
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE_BEFORE)
        for _ in range(STEPS_BEFORE):
            some = torch.randint(len(x), (32,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[some]), y[some]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return body
