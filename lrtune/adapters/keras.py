"""Keras: `model.fit(..., callbacks=[TrialCallback(trial)])`, whatever the backend.

The metric of the job is one that `fit` logs at the end of an epoch, such as `val_loss`. What counts are the iterations
of the optimizer itself, so batches may be accumulated, and a run be resumed.

A trial taken with `job.trials(checkpoints=...)` is kept and brought back by the callback itself, as `BackupAndRestore`
does it, with the seeds of layers and the random generators; `fit` keeps its `epochs`. Stages have to end with an epoch.
"""

import inspect
import json
import math
import random
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lrtune.adapters import matching
from lrtune.adapters.trial import TrialLike, paused, require_length
from lrtune.optimizers import OPTIMIZERS
from lrtune.space import knobs

REMEDY = "make the optimizer with lrtune.adapters.keras.optimizer(trial)"
_CLIPPING = f"give it global_clipnorm=trial.configuration.clip_norm (or clipvalue=...clip_value), or {REMEDY}"
_KERAS = {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "alpha": "rho"}
_MUON = {"beta1": "adam_beta_1", "beta2": "adam_beta_2"}
# What is no knob of a job's is to be as in the export.
_USUAL = {"amsgrad": False, "centered": False, "initial_accumulator_value": 0.0, "rms_rate": 0.2}


class TrialCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the rate of every update, reports every epoch, and stops `fit` when the service says so.

    A model that trains with several optimizers names them: `TrialCallback(trial, generator, discriminator)`. Each goes
    by its own iterations, and keeps its ratio to the rate of the first.
    """

    def __init__(self, trial: TrialLike, *optimizers: Any) -> None:
        super().__init__()
        self.trial, self._named, self.optimizers = trial, [*optimizers], list[Any]()
        self._ratios: list[float] = []
        self._batches, self._rate = 0, 0.0  # of this fit, of this batch
        self._begun: list[int] = []  # how many batches each optimizer had seen when it began
        self._skips = False
        trial.keeps_itself = True

    def set_model(self, model: Any) -> None:
        """Let the rates be numbers before any callback restores the optimizer's state."""
        super().set_model(model)
        self.optimizers = self._named or [_compiled(model)]
        self._skips = hasattr(getattr(model, "optimizer", None), "inner_optimizer")  # mixed precision, what overflows
        rates = [_settable(one, self.trial.steps) for one in self.optimizers]
        if len(rates) > 1 and not rates[0]:
            raise ValueError("found the rate 0 in the first optimizer; accepted is one above 0")
        self._ratios = [1.0, *(rate / rates[0] for rate in rates[1:])]

    def on_train_begin(self, logs: Any = None) -> None:
        """Take over the rates. Raises ValueError for what cannot be followed, or another optimizer than the trial's."""
        model = self.model
        if model.steps_per_execution != 1 or getattr(model, "autotune_steps_per_execution", False):
            found = f"found steps_per_execution={model.steps_per_execution}"
            raise ValueError(f"{found}; accepted is 1, because the rate changes between two steps")
        if self.params["steps"] is None:
            raise ValueError("found data of unknown length; accepted is fit(..., steps_per_epoch=...)")
        for one in self.optimizers:
            _require(one, self.trial)
        self._batches, self._begun = 0, []
        if self.trial.in_stages:
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Look whether the run, from its first epoch on, is as long as the trial. Raises ValueError if not."""
        if self._begun:
            return
        _ = self.model  # with JAX: looking at the model is what brings its optimizer up to date
        first, counted = self.optimizers[0], [_counted(one) for one in self.optimizers]
        self._begun = [self.params["steps"] * epoch] if self._skips and counted[0] and epoch else counted
        to_come = self.params["steps"] * (self.params["epochs"] - epoch)
        found = (self._begun[0] + to_come) // (first.gradient_accumulation_steps or 1)
        done = f", {self._step(0)} of them made before this fit" if self._begun[0] else ""
        require_length(found, self.trial, f"as many, counted by the optimizer's own iterations{done}")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rates of this update. Raises ValueError for a batch that made more than one."""
        _ = self.model
        for place, (one, ratio) in enumerate(zip(self.optimizers, self._ratios, strict=True)):
            if _counted(one) > self._begun[place] + self._batches:
                raise ValueError(f"found several updates in one batch; accepted is one, else {matching.BY_HAND}")
            one.learning_rate = ratio * self.trial.learning_rate(self._step(place))
        self._rate = self.trial.learning_rate(self._step(0))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the batch. Raises ValueError where another callback has set its rate since."""
        _ = self.model
        if not math.isclose(float(self.optimizers[0].learning_rate), self._rate, rel_tol=0.01):
            raise ValueError("found another callback that sets the rate of each batch; accepted is this one alone")
        self._batches += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report what was measured, if anything was updated by then."""
        measured = {name: float(value) for name, value in (logs or {}).items()}
        if self.trial.metric.startswith("val_") and not any(name.startswith("val_") for name in measured):
            return  # `validation_freq`: nothing was validated in this epoch
        _ = self.model
        if (step := self._step(0)) and self.trial.report(step, **measured):
            self.model.stop_training = True
            if paused(self.trial):
                self.trial.keep(step, lambda path: self._fill(path, epoch + 1))

    def _restore(self) -> None:
        """Bring model, optimizers, seeds and epoch to what was kept. Raises ValueError where that cannot be."""
        batches = self.params["steps"] // int(self.optimizers[0].gradient_accumulation_steps or 1)
        if self.trial.until % max(1, batches):
            found = f"found a stage that ends at step {self.trial.until}, within an epoch of {batches} updates"
            raise ValueError(f"{found}; accepted is a job whose horizon is 20 epochs or a multiple, or no checkpoints")
        if (path := self.trial.checkpoint_path) is not None:
            self.model._initial_epoch = _load(Path(path), self.model, self.optimizers)

    def _fill(self, path: Path, epoch: int) -> None:
        _save(path, self.model, self.optimizers, epoch)

    def _step(self, place: int) -> int:
        """The updates that an optimizer has made; one that mixed precision skips is a step, as in other frameworks."""
        one = self.optimizers[place]
        seen = self._begun[place] + self._batches if self._skips else _counted(one)
        return seen // int(one.gradient_accumulation_steps or 1)


def optimizer(trial: TrialLike) -> Any:
    """Keras's optimizer of the configuration, for `compile`. Raises ValueError where Keras has none."""
    asked = trial.configuration.optimizer.as_dict()
    name = asked.pop("name")
    made = next((cls for cls in vars(keras.optimizers).values() if getattr(cls, "__name__", "").lower() == name), None)
    if made is None:
        raise ValueError(f"found the optimizer {name}, which Keras does not have; accepted is another in the job")
    given = {_named(name, knob): value for knob, value in asked.items() if knob != "lr_decay"}
    options = inspect.signature(made).parameters
    given |= {option: value for option, value in _USUAL.items() if option in options}
    if trial.configuration.clip_norm is not None:
        given["global_clipnorm"] = trial.configuration.clip_norm
    elif trial.configuration.clip_value is not None:
        given["clipvalue"] = trial.configuration.clip_value
    found = made(learning_rate=trial.configuration.learning_rate, **given)
    _require(found, trial)
    return found


def _compiled(model: Any) -> Any:
    """The optimizer that a model was compiled with, out of what mixed precision puts around it."""
    found = getattr(model, "optimizer", None)
    if found is None:
        raise ValueError("found a model compiled without an optimizer; accepted is TrialCallback(trial, *optimizers)")
    return getattr(found, "inner_optimizer", found)


def _require(found: Any, trial: TrialLike) -> None:
    """Raise ValueError for an optimizer, class or knobs, that is not the configuration's."""
    name = matching.kind(found)
    values = {knob: [getattr(found, _named(name, knob), None) or 0.0] for knob in knobs(OPTIMIZERS[name])}
    matching.require(name, values, trial.configuration, remedy=REMEDY)
    others = {option: getattr(found, option) for option in _USUAL if hasattr(found, option)}
    matching.refuse_unsayable(name, others, _USUAL)
    asked = trial.configuration  # Keras clips in one way, and the norm goes first
    matching.require_clipping(
        asked, norm=found.global_clipnorm, value=found.clipvalue, by_value=asked.clip_norm is None, remedy=_CLIPPING
    )


def _named(name: str, knob: str) -> str:
    """A knob as Keras calls it."""
    return (_MUON if name == "muon" else {}).get(knob) or _KERAS.get(knob, knob)


def _settable(found: Any, steps: int) -> float:
    """The script's rate; a schedule's, which is its highest, gives way to a number, which alone can be set."""
    schedule = found._learning_rate
    if not callable(schedule):
        return float(found.learning_rate)
    points = range(0, steps, max(1, steps // 100))
    rate = max(float(schedule(step)) for step in points) if _is_schedule(schedule) else float(schedule())
    found._learning_rate = found.add_variable((), name="learning_rate")
    found.learning_rate = rate
    found._variables.insert(1, found._variables.pop())  # where an optimizer made with a number has it, for `load_model`
    return rate


def _is_schedule(rate: Any) -> bool:
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


def _counted(found: Any) -> int:
    """The batches that an optimizer says it has seen."""
    return int(found._iterations)


def _variables(model: Any, optimizers: list[Any]) -> list[Any]:
    """All that changes as a model trains: weights, statistics, the seeds of its layers, what optimizers remember."""
    wrapped = [model.optimizer] if getattr(model, "optimizer", None) is not None else []
    found = [*model.variables, *(one for each in [*wrapped, *optimizers] for one in each.variables)]
    return list({id(one): one for one in found}.values())


def _save(path: Path, model: Any, optimizers: list[Any], epoch: int) -> None:
    arrays = [keras.ops.convert_to_numpy(one) for one in _variables(model, optimizers)]
    named: dict[str, Any] = {f"v{place}": np.asarray(one) for place, one in enumerate(arrays)}
    np.savez(path / "variables.npz", **named)
    kind, key, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    said = {"epoch": epoch, "numpy": [kind, [int(one) for one in key], *rest], "python": [version, internal, gauss]}
    (path / "state.json").write_text(json.dumps(said))
    if keras.backend.backend() == "torch":
        import torch

        torch.save(torch.get_rng_state(), path / "torch.pt")


def _load(path: Path, model: Any, optimizers: list[Any]) -> int:
    """Bring a model to what was kept; how many epochs it has had. Raises ValueError for another model."""
    variables = _variables(model, optimizers)
    with np.load(path / "variables.npz", allow_pickle=False) as kept:
        if len(kept.files) != len(variables):
            raise ValueError(f"found a model of {len(variables)} variables; accepted is that of the checkpoint, "
                             f"which has {len(kept.files)}: build it before fit")  # fmt: skip
        for place, one in enumerate(variables):
            one.assign(kept[f"v{place}"])
    said = json.loads((path / "state.json").read_text())
    np.random.set_state(tuple(said["numpy"]))
    version, internal, gauss = said["python"]
    random.setstate((version, tuple(internal), gauss))
    if keras.backend.backend() == "torch":
        import torch

        torch.set_rng_state(torch.load(path / "torch.pt", weights_only=True))
    return int(said["epoch"])
