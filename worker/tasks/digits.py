"""`digits`: scikit-learn's 1,797 handwritten digits, 1,000 to train on and 797 to validate on, and a small MLP."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from lrtune.wire.tasks import DigitsParams
from worker.tasks.supervised import SPLIT_SEED, Classification, Supervised, halves, mlp


def prepare(params: DigitsParams, data_dir: Path) -> Supervised:  # noqa: ARG001
    """The task of these parameters; `noise` is drawn once and is then part of the data."""
    pictures, labels = load_digits(return_X_y=True)
    noise = np.random.default_rng(SPLIT_SEED).standard_normal(pictures.shape)
    x = torch.tensor(pictures / 16.0 + params.noise * noise, dtype=torch.float32)
    y = torch.tensor(labels)
    train, validation = halves(labels, 797, stratify=True)
    return Supervised(
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        batch_size=params.batch_size,
        build=partial(mlp, 64, params.hidden, 10),
        goal=Classification(),
    )
