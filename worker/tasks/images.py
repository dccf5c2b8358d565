"""`images`: small images, or one-dimensional signals, and a CNN or a ResNet over them."""

from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import LabelEncoder
from torch import Tensor, nn

from lrtune.errors import TaskError
from lrtune.wire.tasks import ImagesParams
from worker.tasks.files import locate
from worker.tasks.pictures import Examples, Split, read_folder, read_npz, read_zip
from worker.tasks.supervised import Classification, Supervised, halves

TOGETHER = 1024  # examples scaled at once
CONSTANT = 1e-12  # of the mean: a deviation below it is what rounding leaves


def prepare(params: ImagesParams, data_dir: Path) -> Supervised:
    """The task of these parameters. Raises TaskError for data that cannot be learned from."""
    train, held = _read(params, data_dir)
    encoder = LabelEncoder().fit(np.concatenate([one.y for one in (train, held) if one]))
    if held is None:
        rows, measured = halves(encoder.transform(train.y), params.validation, stratify=True)
        train, held = (Examples(train.x[part], train.y[part]) for part in (rows, measured))
    if len(train.x) > 1 and (train.x == train.x[:1]).all():
        raise TaskError(
            f"dataset: at size {params.size} all pictures of {params.dataset!r} are the same; size: a larger"
        )
    inputs = _standardised(train.x, held.x, params)
    targets = (torch.tensor(encoder.transform(one.y)) for one in (train, held))
    net = cnn if params.model == "cnn" else resnet
    trained, measured_on = zip(inputs, targets, strict=True)
    return Supervised(
        train=trained,
        validation=measured_on,
        batch_size=params.batch_size,
        build=partial(net, tuple(inputs[0].shape[1:]), params.width, len(encoder.classes_)),
        goal=Classification(),
    )


def _read(params: ImagesParams, data_dir: Path) -> Split:
    path = locate(data_dir, params.dataset)
    if path.is_dir():
        return read_folder(path, params.dataset, size=params.size, data_dir=data_dir)
    if path.suffix == ".zip":
        return read_zip(path, params.dataset, size=params.size)
    return read_npz(path, params.dataset, layout=None if params.layout == "auto" else params.layout)


def _standardised(train: NDArray[Any], held: NDArray[Any], params: ImagesParams) -> tuple[Tensor, Tensor]:
    """Each channel with mean 0 and deviation 1 over the training part; a channel that is constant there is only moved.

    Worked out in float64, a part at a time: 16 bits, tiny numbers and such far from 0 keep what they say.
    """
    axes = (0, *range(2, train.ndim))
    parts = [train[start : start + TOGETHER] for start in range(0, len(train), TOGETHER)]
    many = train.size // train.shape[1]
    mean = sum(part.sum(axis=axes, keepdims=True, dtype=np.float64) for part in parts) / many
    variance = sum(np.square(part - mean).sum(axis=axes, keepdims=True) for part in parts) / many
    deviation = np.sqrt(variance)
    unit = np.where(deviation > CONSTANT * np.abs(mean), deviation, 1.0)
    if not (deviation > CONSTANT * np.abs(mean)).any():
        raise TaskError(f"dataset: the pictures of {params.dataset!r} to train on are all of one colour")
    scaled = tuple(_scaled(one, mean, unit) for one in (train, held))
    if not all(torch.isfinite(one).all() for one in scaled):
        raise TaskError(f"dataset: {params.dataset!r} has numbers to measure on that do not fit float32 after scaling")
    return scaled[0], scaled[1]


def _scaled(x: NDArray[Any], mean: NDArray[np.float64], unit: NDArray[np.float64]) -> Tensor:
    made = np.empty(x.shape, np.float32)
    with np.errstate(over="ignore"):
        for start in range(0, len(x), TOGETHER):
            made[start : start + TOGETHER] = (x[start : start + TOGETHER] - mean) / unit
    return torch.from_numpy(made)


def _conv(axes: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def cnn(shape: tuple[int, ...], width: int, classes: int) -> nn.Module:
    """Three convolutions, each halving the picture, then a hidden layer: no normalisation, so the rate matters."""
    channels, *sides = shape
    axes = len(sides)
    places = int(np.prod([-(-side // 8) for side in sides]))
    return nn.Sequential(
        *(_conv(axes, channels, width, kernel=5, stride=2), nn.ReLU()),
        *(_conv(axes, width, width, stride=2), nn.ReLU()),
        *(_conv(axes, width, width, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(width * places, 4 * width), nn.ReLU()),
        nn.Linear(4 * width, classes),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut. Normalised in groups, which does not depend on the batch."""

    def __init__(self, axes: int, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(_norm(inputs), nn.ReLU(), _conv(axes, inputs, outputs, stride=stride)),
            *(_norm(outputs), nn.ReLU(), _conv(axes, outputs, outputs)),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(axes, inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut plus the convolutions."""
        after: Tensor = self.shortcut(x) + self.body(x)
        return after


class Mean(nn.Module):
    """The mean over all places; the adaptive pooling of torch is not deterministic on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, ...] to [n, channels]."""
        return x.flatten(2).mean(dim=2)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(gcd(8, channels), channels)


def resnet(shape: tuple[int, ...], width: int, classes: int) -> nn.Module:
    """A ResNet of eight layers: `width`, then twice, then four times the channels."""
    channels, *sides = shape
    axes = len(sides)
    return nn.Sequential(
        _conv(axes, channels, width),
        Block(axes, width, width, stride=1),
        Block(axes, width, 2 * width, stride=2),
        Block(axes, 2 * width, 4 * width, stride=2),
        *(_norm(4 * width), nn.ReLU(), Mean(), nn.Linear(4 * width, classes)),
    )
