"""Keras: its own schedules where they give the same rates, else a schedule that looks every step's rate up.

A formula with branches cannot be traced by every backend, so the table is made once, in double precision. None of
Keras's schedules can follow a warm-up whose first step is not at zero.
"""

from typing import Any

from lrtune.export import formulas
from lrtune.export.found import Exported, Found, script
from lrtune.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    Multistep,
    Piecewise,
    Plateau,
    Polynomial,
    Restarts,
    Schedule,
    Step,
)
from lrtune.wire.configuration import Configuration

_TABLE = '''\
@keras.saving.register_keras_serializable("lrtune")
class Recorded(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of every step, looked up."""

    def __init__(self, rates):
        self.rates = list(rates)
        self.table = keras.ops.convert_to_tensor(self.rates, "float32")

    def __call__(self, step):
        place = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self.rates) - 1)
        return keras.ops.take(self.table, place)

    def get_config(self):
        return {"rates": self.rates}


schedule = Recorded([PEAK * factor(step) for step in range(STEPS)])'''
SCHEDULES = "keras.optimizers.schedules"


def write(found: Found) -> Exported:
    """A file to paste from: `schedule`, and `optimizer` for `model.compile`."""
    own = _named(found.family, found.span) if found.free and not found.rise else None
    text = f"{formulas.constants(found)}schedule = {own}" if own else formulas.factor(found) + "\n\n" + _TABLE
    needed = formulas.imports(text, keras="import keras")
    usage = '# model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")\n# model.fit(...)'
    return script(found, "learning_rate.py", needed, text, _optimizer(found.configuration), usage)


# The schedule --------------------------------------------------------------------------------------------------------


def _named(family: Schedule, span: int) -> str | None:
    """The expression of Keras's own schedule; None where none gives these rates."""
    match family:
        case Constant() | Plateau():
            return "PEAK"
        case Linear(final=final):
            return _polynomial(1.0, final)
        case Polynomial(power=power, final=final):
            return _polynomial(power, final)
        case Exponential(final=final, every=0.0):
            return f"{SCHEDULES}.ExponentialDecay(PEAK, decay_steps=STEPS, decay_rate={final!r})"
        case Step(gamma=gamma, every=every):
            stairs = f"decay_steps={round(every * span)}, decay_rate={gamma!r}, staircase=True"
            return f"{SCHEDULES}.ExponentialDecay(PEAK, {stairs})"
        case InverseTime(decay=decay):
            return f"{SCHEDULES}.InverseTimeDecay(PEAK, decay_steps=STEPS, decay_rate={decay!r})"
        case Cosine(final=final, arc=1.0):
            return f"{SCHEDULES}.CosineDecay(PEAK, decay_steps=STEPS, alpha={final!r})"
        case Restarts(cycles=n, mult=1.0, gamma=gamma, shape="cosine", final=final) if span % n == 0:
            restarts = (
                f"{SCHEDULES}.CosineDecayRestarts(PEAK, {span // n}, t_mul=1.0, m_mul={gamma!r}, alpha={final!r})"
            )
            return restarts if gamma == 1.0 or final == 0.0 else None
        case Multistep(gamma=gamma, milestones=milestones):
            steps = [round(milestone * span) for milestone in milestones]
            return _stages(steps, [f"{gamma!r} ** {k} * PEAK" for k in range(len(steps) + 1)])
        case Piecewise(boundaries=boundaries, factors=factors):
            steps = [round(boundary * span) for boundary in boundaries]
            return _stages(steps, [f"{factor!r} * PEAK" for factor in factors])
    return None


def _polynomial(power: float, final: float) -> str:
    return f"{SCHEDULES}.PolynomialDecay(PEAK, decay_steps=STEPS, end_learning_rate={final!r} * PEAK, power={power!r})"


def _stages(steps: list[int], values: list[str]) -> str | None:
    """Keras's boundaries are the last steps of their stages."""
    if steps[0] < 1 or len(set(steps)) < len(steps):
        return None
    ends = [step - 1 for step in steps]
    return f"{SCHEDULES}.PiecewiseConstantDecay({ends}, [{', '.join(values)}])"


# The optimizer -------------------------------------------------------------------------------------------------------

KERAS = {
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "adadelta": "Adadelta",
    "muon": "Muon",
}
NAMES = {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "alpha": "rho"}


def _optimizer(configuration: Configuration) -> str:
    ours = configuration.optimizer.as_dict()
    name = str(ours.pop("name"))
    if name not in KERAS:
        theirs = ", or one that is made otherwise" if configuration.optimizer.packaged else ""
        return f"# Keras has no {name}{theirs}: give `schedule` to an optimizer of your own as its learning_rate."
    values = {NAMES.get(key, key): value for key, value in ours.items()}
    notes = _notes(name, values, configuration)
    values |= _extras(name, values)
    if configuration.clip_norm is not None:
        values["global_clipnorm"] = configuration.clip_norm
    elif configuration.clip_value is not None:
        values["clipvalue"] = configuration.clip_value
    knobs = "".join(f", {key}={value!r}" for key, value in values.items())
    return "\n".join([*notes, f"optimizer = keras.optimizers.{KERAS[name]}(learning_rate=schedule{knobs})"])


def _extras(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments without which Keras would not do as torch does."""
    if name == "adagrad":
        return {"initial_accumulator_value": 0.0}
    if name == "muon":
        adam = {f"adam_{key}": values.pop(key) for key in ("beta_1", "beta_2")}
        return adam | {"adam_weight_decay": values["weight_decay"], "rms_rate": 0.2}
    return {}


def _notes(name: str, values: dict[str, Any], configuration: Configuration) -> list[str]:
    """What Keras has no word for; a knob named here is taken out of `values`."""
    notes = []
    if name not in ("adamw", "muon") and (decay := values.pop("weight_decay")):
        notes += [
            f"# The runs added {decay!r} times the weights to the gradients; in Keras, give every layer",
            f"# kernel_regularizer=keras.regularizers.L2({decay / 2!r}) and the same as its bias_regularizer.",
        ]
    if lr_decay := values.pop("lr_decay", 0.0):
        notes.append(f"# The runs also divided the rate by 1 + {lr_decay!r} * step, which this leaves out.")
    if configuration.clip_norm is not None and configuration.clip_value is not None:
        notes.append(
            f"# The runs then clipped each gradient at {configuration.clip_value!r}; Keras takes one way to clip."
        )
    return notes
