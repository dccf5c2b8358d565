"""`text`: a text file and a character-level GPT that learns to continue it. Its last part is for validation.

An epoch is every window of `context` characters once; validation reads the same fixed windows each time.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lrtune.errors import TaskError
from lrtune.feeding import read
from lrtune.task import Task
from lrtune.uploads import texts
from lrtune.wire.tasks import TextParams
from worker.tasks.batches import order, per_epoch
from worker.tasks.files import locate, read_text

Pair: TypeAlias = tuple[Tensor, Tensor]
VALIDATION_WINDOWS = 256  # at most, evenly spread: an evaluation costs a few steps, not hundreds
CHUNK = 64  # windows evaluated at once


def prepare(params: TextParams, data_dir: Path) -> "Text":
    """The task of these parameters. Raises TaskError for a text that is too short."""
    text = read_text(locate(data_dir, params.dataset), params.dataset)
    letters = sorted(set(text))
    place = {letter: number for number, letter in enumerate(letters)}
    codes = torch.tensor([place[letter] for letter in text], dtype=torch.long)
    if why := texts.too_short(len(codes), len(letters), params):
        raise TaskError(f"dataset: {params.dataset!r} {why}")
    cut = len(codes) - round(len(codes) * params.validation)
    seen = _windows(codes[cut:], params.context)
    spread = torch.linspace(0, len(seen) - 1, min(len(seen), VALIDATION_WINDOWS)).long()
    return Text(params, len(letters), _windows(codes[:cut], params.context), seen[spread])


def _windows(codes: Tensor, context: int) -> Tensor:
    """Every `context` characters and the one after them, one row each."""
    return codes.unfold(0, context + 1, context)


@dataclass(frozen=True)
class Text(Task):
    """Predict the next character, at every character."""

    params: TextParams
    letters: int
    train: Tensor
    validation: Tensor
    metrics: Sequence[str] = ("val_loss",)
    steps_per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps_per_epoch", per_epoch(len(self.train), self.params.batch_size))

    def to(self, device: torch.device) -> Self:
        """The task with its text on the device."""
        return dataclasses.replace(self, train=self.train.to(device), validation=self.validation.to(device))

    def model(self) -> nn.Module:
        """A new GPT."""
        return Gpt(self.params, self.letters)

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Windows, in the order of the seed."""
        return self.batches_from(seed, 0)

    def batches_from(self, seed: int, start: int) -> Iterator[Tensor]:
        """The same without the first `start`."""
        size, device = self.params.batch_size, self.train.device
        for places in order(len(self.train), size, seed=seed, device=device, start=start):
            yield self.train[places]

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The mean cross entropy of the next character, in nats."""
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The mean over the validation windows."""
        parts = torch.split(self.validation, CHUNK)
        losses = read([self.loss(model, windows) for windows in parts])
        total = sum(loss * len(windows) for loss, windows in zip(losses, parts, strict=True))
        return {"val_loss": total / len(self.validation)}


class Layer(nn.Module):
    """Causal attention, then two linear layers, each behind a norm and beside a shortcut."""

    def __init__(self, params: TextParams) -> None:
        super().__init__()
        width, self.heads, self.dropout = params.width, params.heads, params.dropout
        self.before_attention, self.before_thought = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] to the same."""
        x = x + self._dropped(self.out(self._attention(self.before_attention(x))))
        return x + self._dropped(self.narrow(F.gelu(self.wide(self.before_thought(x)))))

    def _attention(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        return mixed.transpose(1, 2).flatten(2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Gpt(nn.Module):
    """Characters and learned positions in, a pre-norm transformer, scores of the next character out."""

    def __init__(self, params: TextParams, letters: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, params.width), nn.Embedding(params.context, params.width)
        self.layers = nn.Sequential(*(Layer(params) for _ in range(params.layers)))
        self.norm, self.head = nn.LayerNorm(params.width), nn.Linear(params.width, letters)
        self.apply(_small)

    def forward(self, codes: Tensor) -> Tensor:
        """[batch, time] of characters to [batch, time, letters] of scores."""
        x = self.letters(codes) + self.places.weight[: codes.shape[1]]
        scores: Tensor = self.head(self.norm(self.layers(x)))
        return scores


def _small(module: nn.Module) -> None:
    """GPT-2's initial weights."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
