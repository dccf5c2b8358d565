"""Tasks that several devices train, light to import in each of their processes."""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from lrtune.task import Task
from lrtune.wire.configuration import Strict


class Noisy(Task):
    """Whatever may differ between devices: dropout, batch statistics, every generator in the loss and in measuring."""

    steps = 40
    steps_per_epoch = 5

    def digest(self) -> str:
        return type(self).__qualname__  # not of the folder that the tests happen to run in, with all that lies there

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))

    def batches(self, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        drawn = torch.Generator().manual_seed(seed)
        while True:
            x = torch.randn(12, 4, generator=drawn)
            yield x, x.sum(1, keepdim=True)

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        x = x * (1 + 0.1 * random.random()) + 0.1 * float(np.random.normal()) + 0.1 * torch.randn_like(x)
        return (model(x) - y).square().mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"val_loss": float((model(torch.randn(16, 4)) - 1).square().mean())}


class Lies(Noisy):
    """Of any width, and says that it is the same."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.wide = wide

    def digest(self) -> str:
        return "the same"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, self.wide), nn.Linear(self.wide, 1))


class Raises(Noisy):
    """Works on no first device."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.error = error

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if distributed.get_rank() == 0:
            raise self.error("on the first device")
        return super().loss(model, batch)


class Second(Noisy):
    """Works on no second device."""

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if distributed.get_rank() == 1:
            raise ValueError("on the second device")
        return super().loss(model, batch)


class Place(Strict):
    """A folder that notes which process was there first."""

    folder: str


class Away(Noisy):
    """Its data is where the first process is, and nowhere else."""

    Params = Place

    def __init__(self, params: Place, data_dir: Path) -> None:
        super().__init__(params, data_dir)
        first = Path(params.folder) / "first"
        if not first.exists():
            first.write_text(str(os.getpid()))
        if first.read_text() != str(os.getpid()):
            raise FileNotFoundError("no such data")


class Dies(Strict):
    """Whose process is killed at which of its batches, unless the folder says that one was; each notes itself there."""

    folder: str
    rank: int = 1
    batch: int = 25


class Mortal(Noisy):
    """One of its processes is killed in mid-step, once."""

    Params = Dies
    seen = 0

    def digest(self) -> str:
        return "mortal"

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        dies: Dies = self.params
        rank, folder = distributed.get_rank(), Path(dies.folder)
        (folder / f"{rank}-{os.getpid()}").touch()
        self.seen += 1
        if rank == dies.rank and self.seen == dies.batch and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


@dataclass
class Unready:
    """Arrives nowhere: unpickled in another process it ends that process, or does not work there."""

    exits: bool

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os._exit, (3,)) if self.exits else (int, ("no number",))

    def __call__(self, member: object) -> None:
        """Never called."""


class Tied(Task):
    """The next of sixteen letters, by layers in a row; first and last weights are the same ones. Without any noise."""

    steps = 40
    steps_per_epoch = 5

    def digest(self) -> str:
        return type(self).__qualname__

    def model(self) -> nn.Module:
        return Letters()

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        drawn = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randint(16, (12,), generator=drawn)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch), (batch * 3 + 1) % 16)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"val_loss": float(self.loss(model, torch.arange(16)))}


class Letters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)) for _ in range(3))
        self.twice = nn.ModuleList([nn.Linear(8, 8)] * 2)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.embedding(letters)
        for layer in (*self.layers, *self.twice):
            found = found + layer(found)
        answer: torch.Tensor = self.head(found)
        return answer


class Around(Noisy):
    """Takes the weights of a layer that it does not call."""

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, _ = batch
        first = next(model.children())
        assert isinstance(first, nn.Linear)
        return super().loss(model, batch) + nn.functional.linear(x, first.weight).square().mean()


class Listed(Noisy):
    """Its model computes with weights that it has in a list."""

    def model(self) -> nn.Module:
        return Rows()


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 1)
        self.rows = [self.first.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.rows[0].t() + self.first.bias


class Penalty(Tied):
    """Its loss has the size of all weights in it."""

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return super().loss(model, batch) + 1e-3 * sum(one.square().sum() for one in model.parameters())


class Sized(Tied):
    """Measures the size of all weights."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"val_loss": sum(float(one.square().sum()) for one in model.parameters())}


class Often(Noisy):
    """Measures as often as the statistics of its batch norm say."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, nn.Sequential)
        often = 1 + int(float(model[1].running_mean.abs().sum()) * 1e4) % 5
        for _ in range(often):
            measured = super().evaluate(model)
        return measured
