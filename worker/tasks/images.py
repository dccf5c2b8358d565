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
from worker.tasks.pictures import Arrays, channels_first, read_folder, read_npz, read_zip
from worker.tasks.supervised import Classification, Supervised, halves


def prepare(params: ImagesParams, data_dir: Path) -> Supervised:
    """The task of these parameters. Raises TaskError for data that cannot be learned from."""
    arrays = _read(params, data_dir)
    encoder = LabelEncoder()
    labels = [_labels(arrays[key], params.dataset) for key in ("y", "y_test") if key in arrays]
    y = encoder.fit_transform(np.concatenate(labels))
    if len(encoder.classes_) < 2:
        raise TaskError(f"dataset: {params.dataset!r} has one class only, '{encoder.classes_[0]}'; two are needed")
    images = [channels_first(arrays[key], params.dataset) for key in ("x", "x_test") if key in arrays]
    if len({one.shape[1:] for one in images}) > 1:
        raise TaskError(f"dataset: x and x_test of {params.dataset!r} differ in shape")
    x, count = np.concatenate(images), len(images[0])
    every = np.arange(len(x))
    rows = halves(y, params.validation, stratify=True) if len(images) == 1 else (every[:count], every[count:])
    return _task(params, x, torch.tensor(y), rows, len(encoder.classes_))


def _read(params: ImagesParams, data_dir: Path) -> Arrays:
    path = locate(data_dir, params.dataset)
    if path.is_dir():
        return read_folder(path, params.dataset, size=params.size, data_dir=data_dir)
    if path.suffix == ".zip":
        return read_zip(path, params.dataset, size=params.size)
    return read_npz(path, params.dataset)


def _labels(y: NDArray[Any], name: str) -> NDArray[Any]:
    flat = y.reshape(len(y)) if y.size == len(y) else y
    if flat.ndim != 1 or flat.dtype.kind not in "uibUS":
        raise TaskError(
            f"dataset: y of {name!r} is {y.dtype} of shape {y.shape}; accepted is one whole number or name each"
        )
    return flat


def _task(
    params: ImagesParams,
    x: NDArray[np.float32],
    y: Tensor,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    classes: int,
) -> Supervised:
    train, validation = rows
    axes = (0, *range(2, x.ndim))
    mean = x[train].mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = x[train].std(axis=axes, keepdims=True, dtype=np.float64)
    inputs = torch.tensor((x - mean) / np.maximum(deviation, 1e-8), dtype=torch.float32)
    net = cnn if params.model == "cnn" else resnet
    return Supervised(
        train=(inputs[train], y[train]),
        validation=(inputs[validation], y[validation]),
        batch_size=params.batch_size,
        build=partial(net, tuple(inputs.shape[1:]), params.width, classes),
        goal=Classification(),
    )


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
