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


class Modules(Characters):
    """As `Characters`, on the other half of the alphabet, from more context and with wider layers."""

    corpus = "[n-z]*.py"
    context = 24

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.seed)
        return nn.Sequential(
            nn.Embedding(128, 24),
            nn.Flatten(),
            nn.Linear(24 * self.context, 160),
            nn.GELU(),
            nn.Linear(160, 160),
            nn.GELU(),
            nn.Linear(160, 128),
        )


class _Decoder(nn.Module):
    """A causal transformer of two layers; its logits have the classes first, as cross-entropy wants them."""

    mask: torch.Tensor

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(128, width), nn.Parameter(0.02 * torch.randn(context, width))
        layers = [
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        ]
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(width), nn.Linear(width, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What follows each character."""
        hidden = self.embedding(x) + self.places
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.mask, is_causal=True)
        logits: torch.Tensor = self.head(self.norm(hidden)).transpose(1, 2)
        return logits


class Packages(Characters):
    """Predict the next character at each of 32 places, in the source of some packages, by a small transformer."""

    corpus = "[h-l]*/*.py"
    context = 32

    def _windows(self, random: torch.Generator, n: int) -> Batch:
        at = torch.randint(0, len(self.text) - self.context - 1, (n // 8,), generator=random)
        text = self.text[at[:, None] + torch.arange(self.context + 1)]
        return text[:, :-1], text[:, 1:]

    def model(self) -> nn.Module:
        """A fresh network, the same for the same seed."""
        torch.manual_seed(self.seed)
        return _Decoder(48, self.context)
