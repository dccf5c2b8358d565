"""A configuration as one flat table of names and values, as other tools want it, and back.

The names are `optimizer`, `learning_rate`, `schedule`, `warmup`, `floor`, `clip_norm`, `clip_value`, and a knob behind
the name of what has it: `adamw.weight_decay`, `cosine.final`. A trial of an older database may have `old_warmup`.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lrtune.errors import Invalid
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES
from lrtune.space import knobs, shown
from lrtune.wire.configuration import Configuration

AROUND = ("learning_rate", "warmup", "floor", "clip_norm", "clip_value", "old_warmup")
PLAIN = ("optimizer", "schedule", *AROUND)
DROPPED = "-"
WARMED = "warmup_steps"  # a share of the run here, and below 1 in Hugging Face's own words as well
# What other people's studies call them.
KNOWN_AS = {
    "lr": "learning_rate",
    "max_lr": "learning_rate",
    "opt": "optimizer",
    "optim": "optimizer",
    "optimizer_name": "optimizer",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "max_grad_norm": "clip_norm",
    "wd": "weight_decay",
    "num_warmup_steps": "warmup_steps",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps",
}
# Hugging Face's and torch's names for the same.
SPELT = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "constant_with_warmup": "constant",
    "cosineannealinglr": "cosine",
    "warmup_stable_decay": "wsd",
}
REGISTRIES: dict[str, Mapping[str, type]] = {"optimizer": OPTIMIZERS, "schedule": FAMILIES}


def flat(configuration: Configuration) -> dict[str, Any]:
    """Every value by its name; what is not set is left out."""
    values = configuration.model_dump(mode="json")
    optimizer, schedule = values["optimizer"], values["schedule"]
    name, family = optimizer.pop("name"), schedule.pop("family")
    found = {"optimizer": name, "schedule": family, **{key: values.get(key) for key in AROUND}}
    found |= {f"{name}.{key}": value for key, value in optimizer.items()}
    found |= {f"{family}.{key}": value for key, value in schedule.items()}
    return {key: value for key, value in found.items() if value is not None}


def configuration(
    params: Mapping[str, Any], names: Mapping[str, str], fixed: Mapping[str, Any], *, steps: int
) -> Configuration:
    """The configuration of another tool's parameters for a run of `steps`, renamed by `names`, beside `fixed` values.

    Raises Invalid.
    """
    ours = {theirs: names.get(theirs, KNOWN_AS.get(theirs, theirs)) for theirs in params}
    _require_one_each({theirs: name for theirs, name in ours.items() if name != DROPPED})
    found = {name: params[theirs] for theirs, name in ours.items() if name != DROPPED} | dict(fixed)
    if isinstance(warmed := found.pop(WARMED, None), int | float):
        found.setdefault("warmup", warmed if 0 < warmed < 1 else warmed / steps)
    missing = [name for name in ("optimizer", "learning_rate", "schedule") if name not in found]
    if missing:
        named = f"the parameters there are {', '.join(params) or 'none'}"
        how = f"accepted is `--map NAME={missing[0]}` for one of them, or `--set {missing[0]}=VALUE`"
        raise Invalid(f"found no {missing[0]}: {named}; {how}")
    for part, registry in REGISTRIES.items():
        found[part] = SPELT.get(str(found[part]).lower(), found[part])
        if str(found[part]).lower() not in registry:
            raise Invalid(f"{part}: found {found[part]!r}; accepted is one of {', '.join(registry)}")
    made: dict[str, Any] = {"optimizer": {"name": found["optimizer"]}, "schedule": {"family": found["schedule"]}}
    made |= {name: value for name, value in found.items() if name in AROUND}
    places = {name: _place(name, found) for name in found if name not in PLAIN}
    if unknown := [name for name, place in places.items() if place is None]:
        chosen, dropped = (found["optimizer"], found["schedule"]), (f"--map {shlex.quote(name)}=-" for name in unknown)
        raise Invalid(
            f"{', '.join(unknown)}: no part of a configuration with {' and '.join(chosen)}; accepted is "
            f"`--map {unknown[0]}=OURS` with one of {', '.join(PLAIN)} or a knob (sgd.momentum, where only some have "
            f"it), or to leave out what is none: `{' '.join(dropped)}`"
        )
    for name, place in places.items():
        if place:
            made[place][name.rpartition(".")[2]] = found[name]
    try:
        return Configuration.model_validate(made)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Invalid(f"{where}: {first['msg']} (from {shown(found)})") from None


def _require_one_each(ours: Mapping[str, str]) -> None:
    """Raise Invalid where two of another tool's parameters are the same here."""
    theirs = {name: other for other, name in ours.items()}
    for other, name in ours.items():
        if theirs[name] != other:
            twice = f"{other} and {theirs[name]} are both {name} here"
            raise Invalid(f"{twice}; accepted is one of them: `--map {shlex.quote(other)}=-` leaves it out")


def _place(name: str, found: Mapping[str, Any]) -> str | None:
    """Whose knob it is: `optimizer` or `schedule`; "" where it belongs to one not chosen, None where it is no knob."""
    owner, _, knob = name.rpartition(".")
    owner = owner.lower()  # as names of optimizers and schedules are taken anywhere, in any case
    for place, registry in REGISTRIES.items():
        chosen = str(found[place]).lower()
        if owner in ("", place, chosen) and chosen in registry and knob in knobs(registry[chosen]):
            return place
        if owner in registry and owner != chosen and knob in knobs(registry[owner]):
            return ""
    return None
