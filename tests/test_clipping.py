"""Gradients are clipped alike whether an embedding's are sparse or dense."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lrtune.task import Model, Task
from lrtune.wire.job import Training
from tests.test_engine import trained
from tests.test_trainer import trial


@dataclass
class Words(Task):
    """Pairs of words, some of them several times in a batch."""

    sparse: bool = False
    steps_per_epoch = 10

    def model(self) -> Model:
        return torch.nn.Sequential(
            torch.nn.Embedding(20, 4, sparse=self.sparse), torch.nn.Flatten(), torch.nn.Linear(8, 1)
        )

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randint(0, 20, (16, 2), generator=draw)

    def loss(self, model: Any, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch)[:, 0] - batch.float().mean(dim=1)).square().mean()

    def evaluate(self, model: Any) -> dict[str, float]:
        return {"val_loss": float(self.loss(model, torch.arange(20).view(10, 2)))}


@pytest.mark.parametrize("clips", [{"clip_norm": 1.0}, {"clip_norm": None, "clip_value": 0.1}])
def test_sparse_gradients_are_clipped_as_dense_ones_are(clips: dict[str, float | None]) -> None:
    """A job clips at 1 unless it says otherwise, so each trial of a task with sparse embeddings failed."""
    asked = trial(optimizer={"name": "sgd", "momentum": 0.0}, learning_rate=0.05, **clips)
    ends = [trained(Words(sparse=sparse), asked, Training())[1][-1].metrics["val_loss"] for sparse in (False, True)]
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)
