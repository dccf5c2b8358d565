"""What `make_table` trains: small tasks that need no download. A new one is a class with a `Task`'s methods."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


class Task(Protocol):
    """A network, its batches, and what it is validated on."""

    metric: str
    valid: Batch

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""

    def batches(self) -> Iterator[Batch]:
        """Training batches for ever, the same for the same seed."""


class Digits:
    """1000 training and 797 validation images with noise, and a ReLU network that can learn them by heart."""

    metric = "validation cross-entropy (nats), 797 noisy 8x8 digit images"

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        noise = np.random.default_rng(0).normal(0, 0.3, data.data.shape)
        x = torch.tensor(data.data / 16 + noise, dtype=torch.float32)
        y = torch.tensor(data.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
        self.train, self.valid = (x[order[:1000]], y[order[:1000]]), (x[order[1000:]], y[order[1000:]])
        self.seed = seed

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.seed)
        return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))

    def batches(self) -> Iterator[Batch]:
        """Training batches for ever, the same for the same seed."""
        random = torch.Generator().manual_seed(self.seed)
        while True:
            for part in torch.randperm(1000, generator=random)[:992].split(32):  # type: ignore[no-untyped-call]
                yield self.train[0][part], self.train[1][part]


class Characters:
    """Predict the next character of Python source from the sixteen before it."""

    metric = "validation cross-entropy (nats per character)"
    context = 16
    corpus = "[a-m]*.py"  # of the standard library

    def __init__(self, seed: int) -> None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        text = "".join(p.read_text(encoding="utf-8", errors="ignore") for p in sorted(folder.glob(self.corpus)))
        codes = np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8)
        self.text = torch.tensor(codes.astype(np.int64).clip(0, 127))
        self.seed = seed
        held = self._windows(torch.Generator().manual_seed(99), 4096)
        self.valid = held

    def _windows(self, random: torch.Generator, n: int) -> Batch:
        at = torch.randint(0, len(self.text) - self.context - 1, (n,), generator=random)
        index = at[:, None] + torch.arange(self.context)
        return self.text[index], self.text[at + self.context]

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.seed)
        return nn.Sequential(
            nn.Embedding(128, 16),
            nn.Flatten(),
            nn.Linear(16 * self.context, 96),
            nn.GELU(),
            nn.Linear(96, 96),
            nn.GELU(),
            nn.Linear(96, 128),
        )

    def batches(self) -> Iterator[Batch]:
        """Training batches for ever, the same for the same seed."""
        random = torch.Generator().manual_seed(self.seed)
        while True:
            yield self._windows(random, 128)


class _Residual(nn.Module):
    """A normalised layer beside what goes into it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input and what the layer adds to it."""
        added: torch.Tensor = self.layer(x)
        return x + added


class Prose(Characters):
    """Predict the next character of the text of Python's reference manual, by a deeper network with residual layers."""

    corpus = "pydoc_data/topics.py"

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.seed)
        return nn.Sequential(
            nn.Embedding(128, 16),
            nn.Flatten(),
            nn.Linear(16 * self.context, 96),
            *(_Residual(96) for _ in range(2)),
            nn.LayerNorm(96),
            nn.Linear(96, 128),
        )
