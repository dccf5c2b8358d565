"""Keras in stages: a run that was paused twice is the one of one piece, bit for bit."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest

from lrtune.adapters.keras import TrialCallback, optimizer
from lrtune.loop import LoopTrial
from tests.offline import STEPS
from tests.staged import in_stages, range_test, stage

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
X = np.random.default_rng(3).normal(size=(24, 3)).astype("float32")


class Losses(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.found += [logs["loss"], logs["val_loss"]]


def train(trial: LoopTrial, *, accumulated: int | None = None, **options: Any) -> tuple[list[float], list[Any]]:
    keras.utils.set_random_seed(trial.seed)
    layers = keras.layers
    net = [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.4), layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *net])
    made, losses = optimizer(trial), Losses()
    made.gradient_accumulation_steps = accumulated
    model.compile(made, loss="mse")
    settings: dict[str, Any] = {"batch_size": 8 // (accumulated or 1), "epochs": 4, "verbose": 0}
    callbacks = [TrialCallback(trial), losses]
    y = X.sum(axis=1, keepdims=True)
    model.fit(X, y, validation_data=(X[:4], y[:4]), callbacks=callbacks, **(settings | options))
    return losses.found, [one.tolist() for one in model.get_weights()]


@pytest.mark.parametrize("accumulated", [None, 2])
@pytest.mark.parametrize("ends", [[3, 9, STEPS], [6, 9, STEPS]], ids=str)
def test_a_fit_paused_twice_trains_bit_for_bit_as_in_one_piece(
    ends: list[int], accumulated: int | None, tmp_path: Path
) -> None:
    last: list[Any] = []

    def one(trial: LoopTrial) -> list[float]:
        losses, last[:] = train(trial, accumulated=accumulated)
        return losses

    whole = in_stages(tmp_path, one, [STEPS])
    weights = list(last)
    assert in_stages(tmp_path, one, ends) == whole
    assert last == weights


def test_a_stage_that_ends_within_an_epoch_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ends at step 4, within an epoch of 3 updates; accepted is a job whose"):
        train(stage(tmp_path, 0, 4, None))


def test_a_fit_begins_again_where_its_checkpoint_is_gone(tmp_path: Path) -> None:
    trial = stage(tmp_path, 6, STEPS, "trial-0-step-6-" + "0" * 32)
    assert train(trial) == train(stage(tmp_path, 0, STEPS, None))
    assert trial._door.began == 0  # type: ignore[attr-defined]


def test_a_range_test_ends_at_its_own_end_in_a_script_of_the_jobs_length(tmp_path: Path) -> None:
    trial = range_test(tmp_path, 6)
    losses, _ = train(trial)
    assert len(losses) == 2 * 2, "two values of each of two epochs"
    assert [one.step for one in trial._door.sent][-1] == 6  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="found a run of 3 steps; this trial has 6"):
        train(range_test(tmp_path, 6), epochs=1)
