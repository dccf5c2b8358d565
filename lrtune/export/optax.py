"""Optax: its own schedules, joined behind a warm-up, where they give the same rates; else a table of every step's rate.

A formula with branches cannot be traced, so the table is made once, in double precision, and looked up by the count.
"""

from typing import Any

from lrtune.export import formulas
from lrtune.export.found import Exported, Found, script
from lrtune.optimizers import Optimizer
from lrtune.schedules import (
    Constant,
    Cosine,
    Exponential,
    ExponentialGrowth,
    Linear,
    LinearGrowth,
    Multistep,
    OneCycle,
    Piecewise,
    Plateau,
    Polynomial,
    Schedule,
    Step,
    Wsd,
)
from lrtune.wire.configuration import Configuration

_TABLE = """\
RATES = jnp.asarray([PEAK * factor(step) for step in range(STEPS)])


def schedule(count):
    return RATES[jnp.minimum(count, STEPS - 1)]"""


def write(found: Found) -> Exported:
    """A file to paste from: `schedule`, and `optimizer` as a chain."""
    own = _own(found)
    text = f"{formulas.constants(found)}schedule = {own}" if own else formulas.factor(found) + "\n\n" + _TABLE
    needed = formulas.imports(text, jnp="" if own else "import jax.numpy as jnp", optax="import optax")
    return script(found, "learning_rate.py", needed, text, _optimizer(found.configuration))


# The schedule --------------------------------------------------------------------------------------------------------


def _own(found: Found) -> str | None:
    """The expression of Optax's own schedule, warm-up included; None where none gives these rates."""
    after = _named(found.family, found.span) if found.free else None
    if after is None or not found.rise:
        return after
    top = "PEAK" if found.top == 1.0 else f"{found.top!r} * PEAK"
    rise = f"optax.linear_schedule({top} / {found.rise}, {top}, {found.rise - 1})"
    first = f"optax.constant_schedule({top})" if found.rise == 1 else rise
    return f"optax.join_schedules([{first}, {after}], [{found.rise}])"


def _named(family: Schedule, span: int) -> str | None:
    match family:
        case Constant() | Plateau():
            return "optax.constant_schedule(PEAK)"
        case Linear(final=final):
            return f"optax.linear_schedule(PEAK, {final!r} * PEAK, {span})"
        case LinearGrowth(start=start):
            return f"optax.linear_schedule({start!r} * PEAK, PEAK, {span})"
        case Polynomial(power=power, final=final):
            return f"optax.polynomial_schedule(PEAK, {final!r} * PEAK, {power!r}, {span})"
        case Exponential(final=final, every=0.0):
            return f"optax.exponential_decay(PEAK, {span}, {final!r})"
        case ExponentialGrowth(start=start):
            return f"optax.exponential_decay({start!r} * PEAK, {span}, 1 / {start!r})"
        case Cosine(final=final, arc=1.0):
            return f"optax.cosine_decay_schedule(PEAK, {span}, alpha={final!r})"
        case Step(gamma=gamma, every=every):
            return f"optax.exponential_decay(PEAK, {round(every * span)}, {gamma!r}, staircase=True)"
    return _staged(family, span)


def _staged(family: Schedule, span: int) -> str | None:
    """Schedules of several stages."""
    match family:
        case Multistep(gamma=gamma, milestones=milestones) if round(milestones[0] * span) > 0:
            steps = [round(milestone * span) for milestone in milestones]
            scales = {step: f"{gamma!r} ** {steps.count(step)}" for step in steps}
            return f"optax.piecewise_constant_schedule(PEAK, {_dict(scales)})"
        case Piecewise(boundaries=boundaries, factors=factors) if min(factors) > 0.0:
            steps = [round(boundary * span) for boundary in boundaries]
            if steps[0] == 0 or len(set(steps)) < len(steps):
                return None
            scales = {
                step: f"{after!r} / {factors[k]!r}"
                for k, (step, after) in enumerate(zip(steps, factors[1:], strict=True))
            }
            return f"optax.piecewise_constant_schedule({factors[0]!r} * PEAK, {_dict(scales)})"
        case Wsd(decay=decay, shape="linear" | "cosine" as shape, final=final, power=1.0):
            last = round(decay * span)
            fall = {
                "linear": f"optax.linear_schedule(PEAK, {final!r} * PEAK, {last})",
                "cosine": f"optax.cosine_decay_schedule(PEAK, {last}, alpha={final!r})",
            }[shape]
            hold = "optax.constant_schedule(PEAK)"
            return f"optax.join_schedules([{hold}, {fall}], [{span - last}])" if last < span else fall
        case OneCycle(rise=rise, start=start, final=final, shape="cosine") if min(start, final) > 0.0:
            top = rise * span
            if round(top) < 1 or abs(top - round(top)) > 1e-9:
                return None
            ends = f"div_factor=1 / {start!r}, final_div_factor={start!r} / {final!r}"
            return f"optax.cosine_onecycle_schedule({span}, PEAK, pct_start={round(top)} / {span}, {ends})"
    return None


def _dict(scales: dict[int, str]) -> str:
    return "{" + ", ".join(f"{step}: {scale}" for step, scale in scales.items()) + "}"


# The optimizer -------------------------------------------------------------------------------------------------------

NAMES = {"beta1": "b1", "beta2": "b2", "alpha": "decay"}


def _optimizer(configuration: Configuration) -> str:
    chosen = configuration.optimizer
    if chosen.packaged:
        name = chosen.as_dict()["name"]
        return f"# Optax's {name}, in optax.contrib, is made otherwise: give `schedule` to it as its learning_rate."
    links, notes = [], []
    if configuration.clip_norm is not None:
        links.append(f"optax.clip_by_global_norm({configuration.clip_norm!r})")
    if configuration.clip_value is not None:
        links.append(f"optax.clip({configuration.clip_value!r})")
    name, values = _theirs(chosen)
    if (decay := values.pop("weight_decay", 0.0)) and name not in ("adamw", "contrib.muon"):
        links.append(f"optax.add_decayed_weights({decay!r})")  # into the gradient, as torch does
    elif name in ("adamw", "contrib.muon"):
        values["weight_decay"] = decay
    if lr_decay := values.pop("lr_decay", 0.0):
        notes.append(f"# The runs also divided the rate by 1 + {lr_decay!r} * count, which this leaves out.")
    knobs = "".join(f", {key}={value!r}" for key, value in values.items())
    links.append(f"optax.{name}(schedule{knobs})")
    chain = "".join(f"    {link},\n" for link in links)
    return "\n".join([*notes, f"optimizer = optax.chain(\n{chain})"])


def _theirs(chosen: Optimizer) -> tuple[str, dict[str, Any]]:
    """Optax's name of the optimizer, and its knobs in Optax's words."""
    ours = chosen.as_dict()
    name = str(ours.pop("name"))
    values = {NAMES.get(key, key): value for key, value in ours.items()}
    match name:
        case "muon":
            muon = {"beta": values["momentum"], "nesterov": values["nesterov"], "weight_decay": values["weight_decay"]}
            adam = {"adam_b1": values["b1"], "adam_b2": values["b2"], "adam_weight_decay": values["weight_decay"]}
            return "contrib.muon", {**muon, **adam, "consistent_rms": 0.2}
        case "rmsprop":
            return name, values | {"momentum": values["momentum"] or None, "eps_in_sqrt": False}
        case "adagrad":
            return name, values | {"initial_accumulator_value": 0.0}
        case "sgd":
            return name, values | {"momentum": values["momentum"] or None}
    return name, values
