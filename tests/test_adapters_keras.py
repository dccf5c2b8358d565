"""A trial in Keras's `fit`: what each update really used is the trial's rate, whatever the backend."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest

from lrtune.adapters.keras import TrialCallback, optimizer
from lrtune.loop import LoopTrial
from lrtune.optimizers import OPTIMIZERS
from tests.offline import ADAMW, SGD, SHAPE, STEPS, held, rates

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
BATCHES = 4  # an epoch has, of two examples each
SCHEDULES = keras.optimizers.schedules
SGD_MOMENTUM = SHAPE | {"optimizer": {"name": "sgd"}}


class Dense(keras.Model):
    """A linear model."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class Watch(keras.callbacks.Callback):
    """Reads off each batch how far the weights were moved: under SGD, and a gradient of 1, that is the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.last: float | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.last is None:
            self.last = self._bias()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (bias := self._bias()) != self.last:
            self.moves.append(self.last - bias)
            self.last = bias

    def _bias(self) -> float:
        return float(keras.ops.convert_to_numpy(self.model.dense.bias)[0])


def compiled(learning_rate: Any = 0.01, **options: Any) -> Dense:
    """The loss is the mean of the outputs, so the bias has the gradient 1."""
    model = Dense()
    given = options.pop("optimizer", None) or keras.optimizers.SGD(learning_rate, **options.pop("knobs", {}))
    model.compile(given, loss=lambda _, found: keras.ops.mean(found), **options)
    return model


def data(batches: int = BATCHES) -> tuple[Any, Any]:
    return np.zeros((2 * batches, 3), "float32"), np.zeros((2 * batches, 1), "float32")


def fit(trial: LoopTrial, model: Dense, *more: Any, x: Any = None, **options: Any) -> list[float]:
    """The rates that were used."""
    watch = Watch()
    x, y = (x, None) if x is not None else data()
    settings: dict[str, Any] = {"batch_size": None if y is None else 2, "epochs": 3, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[TrialCallback(trial), *more, watch], **(settings | options))
    return watch.moves


def close(wanted: list[float]) -> Any:
    return pytest.approx(wanted, rel=1e-4, abs=1e-6)


def schedules() -> dict[str, Any]:
    return {
        "a number": 0.01,
        "warm-up from nothing": SCHEDULES.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=3),
        "stages": SCHEDULES.PiecewiseConstantDecay([3], [0.1, 0.01]),
        "a function": lambda: 0.5,
    }


@pytest.mark.parametrize("rate", schedules().values(), ids=schedules())
def test_the_rate_of_every_update_is_the_trials(rate: Any) -> None:
    trial = held(SGD, metric="loss")
    model = compiled(rate)
    assert fit(trial, model) == close(rates(trial))
    assert [one.step for one in trial._door.sent] == [4, 8, 12]


def test_an_epoch_without_validation_says_nothing() -> None:
    trial = held(SGD)
    fit(trial, compiled(), epochs=3, validation_data=data(), validation_freq=2)
    assert [one.step for one in trial._door.sent] == [2 * BATCHES]


def test_a_scheduler_among_the_callbacks_is_overruled() -> None:
    trial = held(SGD, metric="loss")
    own = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    assert fit(trial, compiled(), own, keras.callbacks.ReduceLROnPlateau("loss", patience=0)) == close(rates(trial))


@pytest.mark.parametrize("rate", [0.01, SCHEDULES.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=3)])
def test_an_update_that_mixed_precision_skips_is_a_step(rate: Any) -> None:
    trial, model, watch = held(SGD, metric="loss"), Dense(), Watch()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate), initial_scale=3e38)
    model.compile(scaled, loss=lambda _, found: 4 * keras.ops.mean(found))  # two updates overflow
    model.fit(*data(), batch_size=2, epochs=3, verbose=0, callbacks=[TrialCallback(trial), watch])
    assert watch.moves == close([4 * rate for rate in rates(trial, 2)])
    assert trial._door.sent[-1].step == STEPS


class WarmUp(keras.callbacks.Callback):
    """Sets the rate of each batch, as scripts do."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.001 * (batch + 1)


def test_a_callback_that_sets_the_rate_of_each_batch_is_overruled_or_refused_in_words() -> None:
    trial, model, watch = held(SGD, metric="loss"), compiled(), Watch()
    model.fit(*data(), batch_size=2, epochs=3, verbose=0, callbacks=[WarmUp(), TrialCallback(trial), watch])
    assert watch.moves == close(rates(trial))
    with pytest.raises(
        ValueError, match="found another callback that sets the rate of each batch; accepted is this one"
    ):
        fit(held(SGD, metric="loss"), compiled(), WarmUp())


@pytest.mark.parametrize("rate", [0.01, SCHEDULES.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=3)])
def test_accumulated_batches_are_one_update(rate: Any) -> None:
    trial = held(SGD, metric="loss")
    model = compiled(rate, knobs={"gradient_accumulation_steps": 3})
    assert fit(trial, model, epochs=9) == close(rates(trial))
    assert trial._door.sent[-1].step == STEPS


@pytest.mark.parametrize("rate", [0.01, SCHEDULES.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=3)])
def test_a_saved_model_goes_on_at_its_iteration(rate: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])
    model.compile(keras.optimizers.SGD(rate), loss="mean_absolute_error")
    x, y = np.zeros((8, 3), "float32"), np.full((8, 1), -99.0, "float32")
    trial, keep = held(SGD, metric="loss"), keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    options: dict[str, Any] = {"batch_size": 2, "epochs": 3, "verbose": 0}
    model.fit(x, y, callbacks=[TrialCallback(trial), keep], **options)
    loaded = keras.models.load_model(tmp_path / "1.keras")
    assert int(loaded.optimizer.iterations) == BATCHES
    watch = Watch()
    loaded.dense = loaded.get_layer("dense")
    loaded.fit(x, y, callbacks=[TrialCallback(trial), watch], initial_epoch=1, **options)
    assert watch.moves == close(rates(trial, BATCHES))


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("rate", [0.01, SCHEDULES.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=3)])
def test_a_backup_is_restored_at_its_iteration(rate: Any, first: bool, tmp_path: Path) -> None:
    def crash(epoch: int, logs: Any) -> None:
        raise RuntimeError("power cut")

    trial = held(SGD, metric="loss")
    for more in ([keras.callbacks.LambdaCallback(on_epoch_end=crash)], []):
        watch, model = Watch(), compiled(rate)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        ours = [backup, TrialCallback(trial)] if first else [TrialCallback(trial), backup]
        with pytest.raises(RuntimeError, match="power cut") if more else nullcontext():
            model.fit(*data(), batch_size=2, epochs=3, verbose=0, callbacks=[*ours, *more, watch])
    assert watch.moves == close(rates(trial, BATCHES))


def test_a_generator_that_says_its_length_is_followed() -> None:
    trial = held(SGD, metric="loss")
    examples = ((np.zeros((2, 3), "float32"), np.zeros((2, 1), "float32")) for _ in range(99))
    assert fit(trial, compiled(), x=examples, steps_per_epoch=6, epochs=2) == close(rates(trial))


def test_the_service_and_early_stopping_end_a_fit() -> None:
    stopped = held(SGD, metric="loss", stop=8)
    assert fit(stopped, compiled()) == close(rates(stopped)[:8])
    trial = held(SGD, metric="loss")
    early = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9)
    assert fit(trial, compiled(), early) == close(rates(trial)[:8])


def endless() -> Iterator[Any]:
    while True:
        yield np.zeros((2, 3), "float32"), np.zeros((2, 1), "float32")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "too short": (SGD, {}, {"epochs": 2}, "found a run of 8 steps; this trial has 12"),
    "a later epoch of a fresh optimizer": (SGD, {}, {"initial_epoch": 1}, "found a run of 8 steps; this trial has 12"),
    "accumulation without more epochs": (
        SGD,
        {"knobs": {"gradient_accumulation_steps": 2}},
        {},
        "found a run of 6 steps; this trial has 12: accepted is as many, counted by the optimizer's own iterations",
    ),
    "a length that nobody knows": (
        SGD,
        {},
        {"x": endless()},
        r"found data of unknown length; accepted is fit\(\.\.\., steps_per_epoch=",
    ),
    "several steps at once": (SGD, {"steps_per_execution": 2}, {}, "found steps_per_execution=2; accepted is 1"),
    "momentum that it has not": (
        SGD_MOMENTUM,
        {},
        {},
        r'found sgd with momentum 0.0, and this trial has 0.9; write "optimizers": \[{"name": "sgd", "momentum": 0.0}\]'
        r" in the job, or make the optimizer with lrtune\.adapters\.keras\.optimizer\(trial\)",
    ),
    "Keras's own defaults": (
        ADAMW,
        {"optimizer": keras.optimizers.AdamW(1e-3)},
        {},
        r'\[{"name": "adamw", "weight_decay": 0.004, "eps": 1e-07}\]',
    ),
    "what no job can name": (
        SGD,
        {"optimizer": keras.optimizers.Ftrl(1e-3)},
        {},
        "found the optimizer Ftrl; a job can name",
    ),
}


@pytest.mark.parametrize(("configuration", "made", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_refused_in_words(
    configuration: dict[str, Any], made: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    if made.get("steps_per_execution") and keras.backend.backend() == "torch":
        words = "steps_per_execution"  # Keras says it itself
    with pytest.raises(ValueError, match=words):
        fit(held(configuration, metric="loss"), compiled(**made), **options)


def test_a_second_fit_of_the_same_optimizer_is_refused_in_words() -> None:
    model = compiled()
    fit(held(SGD, metric="loss"), model)
    with pytest.raises(
        ValueError, match=r"found a run of 24 steps; this trial has 12: .*, 12 of them made before this"
    ):
        fit(held(SGD, metric="loss"), model)


class Adversaries(Dense):
    """Two models with an optimizer each, the second at four times the rate of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.other = keras.layers.Dense(1)
        self.one, self.two = keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.04)

    def train_step(self, batch: Any) -> dict[str, float]:
        import torch

        for adversary, layer in ((self.one, self.dense), (self.two, self.other)):
            weights = layer.trainable_weights
            adversary.apply([torch.ones_like(one.value) for one in weights], weights)
        return {"loss": 1.0}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="a train_step is written for one backend")
def test_two_optimizers_that_are_named_keep_their_ratio() -> None:
    model = Adversaries()
    model.compile(loss="mse")
    model.dense.build((2, 3))
    model.other.build((2, 3))
    trial, watch = held(SGD, metric="loss"), Watch()
    model.fit(*data(), batch_size=2, epochs=3, verbose=0, callbacks=[TrialCallback(trial, model.one, model.two), watch])
    assert watch.moves == close(rates(trial))
    assert float(model.other.bias[0]) == pytest.approx(-4 * sum(rates(trial)), rel=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS if name not in ("radam", "prodigy", "schedule-free-adamw")]
)
def test_the_trials_own_optimizer_is_accepted(name: str) -> None:
    trial = held(SHAPE | {"optimizer": {"name": name, "weight_decay": 0.125}}, metric="loss")
    moves = fit(trial, compiled(optimizer=optimizer(trial)))
    assert trial._door.sent[-1].step == STEPS
    assert moves


@pytest.mark.parametrize(("by", "theirs"), [("norm", "global_clipnorm"), ("value", "clipvalue")])
def test_gradients_are_clipped_as_the_job_says_or_refused_in_words(by: str, theirs: str) -> None:
    trial = held(SGD | {f"clip_{by}": 0.5})
    with pytest.raises(ValueError, match=f"not by {by}, and this trial clips at 0.5; give it"):
        fit(trial, compiled())
    assert getattr(optimizer(trial), theirs) == 0.5
    fit(trial, compiled(optimizer=optimizer(trial)))


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="it would call itself")
def test_the_same_holds_where_jax_is_the_backend() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
