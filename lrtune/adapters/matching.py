"""Whether a script's optimizer is the one that its trial says it trains with; if not, a sentence with what to write.

A knob agrees where one group at least has the configuration's value: a script may spare its biases the weight decay.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.optimizers import OPTIMIZERS, Optimizer, optimizer
from lrtune.wire.configuration import Configuration

BY_HAND = "set its rates yourself with trial.learning_rate(step)"
_NAMES = {name.replace("-", ""): name for name in OPTIMIZERS}


def kind(found: object) -> str:
    """Our name of a framework's optimizer, a subclass's as well. Raises ValueError for one that no job can name."""
    known = (_NAMES.get(cls.__name__.lower()) for cls in type(found).__mro__)
    name = next(filter(None, known), None)
    if name is None:
        accepted = ", ".join(OPTIMIZERS)
        raise ValueError(f"found the optimizer {type(found).__name__}; a job can name {accepted}; else {BY_HAND}")
    return name


def require(name: str, found: Mapping[str, Sequence[Any]], configuration: Configuration, *, remedy: str) -> None:
    """Raise ValueError where the optimizer `name`, with the values that its groups have of each knob, is another."""
    asked = configuration.optimizer.as_dict()
    own = str(asked.pop("name"))
    if name != own:
        raise ValueError(f"found {name}, and this trial is one of {own}; {_written(name, found)}, or {remedy}")
    for knob, values in found.items():
        if not any(_same(value, asked[knob]) for value in values):
            what = f"found {name} with {knob} {_shown(values)}, and this trial has {asked[knob]}"
            raise ValueError(f"{what}; {_written(name, found)}, or {remedy}")


def refuse_unsayable(name: str, found: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that changes the training and is no knob of a job's."""
    for option, value in found.items():
        if not _same(value, accepted[option]):
            raise ValueError(f"found {name} with {option} {value}; accepted is {accepted[option]}, else {BY_HAND}")


def require_clipping(
    configuration: Configuration, *, norm: float | None, value: float | None = None, by_value: bool = False, remedy: str
) -> None:
    """Raise ValueError where a job says how gradients are clipped and the framework clips them otherwise.

    A job that says nothing of it leaves it to the script. `by_value`: whether the framework can clip so.
    """
    both = (("norm", configuration.clip_norm, norm), ("value", configuration.clip_value if by_value else None, value))
    for kind, asked, found in both:
        if asked is not None and not _same(asked, found):
            how = f"by {kind} at {found:g}" if found else f"not by {kind}"
            raise ValueError(f"found gradients clipped {how}, and this trial clips at {asked:g}; {remedy}")


def _written(name: str, found: Mapping[str, Sequence[Any]]) -> str:
    """What a job says so that its trials are trained with this optimizer: the knobs that are not the default ones."""
    usual: Optimizer = optimizer(name)
    knobs = {knob: _shown(values) for knob, values in found.items()}
    said = {knob: value for knob, value in knobs.items() if not _same(value, getattr(usual, knob))}
    return f'write "optimizers": [{json.dumps({"name": name, **said})}] in the job'


def _shown(values: Sequence[Any]) -> Any:
    value = next((value for value in values if value), values[0])
    return value if isinstance(value, bool) else float(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)
