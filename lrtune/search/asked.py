"""What a job asks for by name: its own baseline and its `try` list, filled in, checked against the space, run first.

What a configuration to try leaves out is as in the job's baseline, moved to the nearest value that the space has.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from lrtune.errors import Rejection
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES
from lrtune.search.baseline import reference, refuse_warmup
from lrtune.space import Axis, Choice, Fixed, Point, Range, Space, knob_values, shown, within
from lrtune.wire.configuration import Configuration, rises
from lrtune.wire.job import JobSpec
from lrtune.wire.partial import PartialConfiguration
from lrtune.wire.results import Proposal, Trial


def next_asked(spec: JobSpec, past: Sequence[Trial], *, steps: int) -> Proposal | None:
    """The first configuration of the job's list that was not tried yet; None where there is none left."""
    tried = {trial.configuration for trial in past if trial.role != "range-test"}
    for place, part in enumerate(spec.try_, start=1):
        chosen = filled(spec, part)
        if chosen not in tried:
            return Proposal(
                configuration=chosen,
                role="search",
                seed=spec.search.seed,
                horizon=steps,
                reason=f"asked for by the job's try list: {place} of {len(spec.try_)}",
            )
    return None


def filled(spec: JobSpec, part: PartialConfiguration) -> Configuration:
    """All of a configuration to try. Raises ValidationError where its knobs exclude one another."""
    space, like, given = spec.space(), reference(spec), part.given()
    name = given.get("optimizer", {"name": _one_of(space.optimizers, like.kind[0])})["name"]
    family = given.get("schedule", {"family": _family(space, name, like)})["family"]
    usual_rate = like.learning_rate if like.kind[0] == name else OPTIMIZERS[name].usual
    of_optimizer = knob_values(like.optimizer if like.kind[0] == name else OPTIMIZERS[name]())
    of_schedule = knob_values(like.schedule if like.kind[1] == family else FAMILIES[family]())
    axes = dict(space.optimizers.get(name, {}))
    rate = _nearest(axes.pop("learning_rate", Fixed(usual_rate)), usual_rate)
    around = {knob: _nearest(axis, getattr(like, knob)) for knob, axis in space.common.items()}
    refuse_warmup(family, given)
    if rises(family):
        around["warmup"] = 0.0
    return Configuration.model_validate(
        {
            "learning_rate": rate,
            **around,
            **given,
            "optimizer": {"name": name, **_inside(axes, of_optimizer), **given.get("optimizer", {})},
            "schedule": {
                "family": family,
                **_inside(space.schedules.get(family, {}), of_schedule),
                **given.get("schedule", {}),
            },
        }
    )


def _one_of(names: Mapping[str, object], wanted: str) -> str:
    return wanted if wanted in names else next(iter(names))


def _family(space: Space, name: str, like: Configuration) -> str:
    """The family of the baseline where the space has it, else the first that goes with the optimizer."""
    goes = OPTIMIZERS[name].families
    return _one_of(
        {family: 0 for family in space.schedules if goes is None or family in goes} or {"constant": 0}, like.kind[1]
    )


def _inside(axes: Mapping[str, Axis], values: Mapping[str, Point]) -> dict[str, Point]:
    return {knob: _nearest(axes[knob], value) if knob in axes else value for knob, value in values.items()}


def _nearest(axis: Axis, value: Point) -> Point:
    """The value of an axis that is nearest to one: for no clip the largest, for a name that is not there the first."""
    if isinstance(axis, Fixed):
        return axis.value
    if isinstance(axis, Choice) and axis.ends is None:
        return value if value in axis.options else axis.options[0]
    ends = (axis.low, axis.high) if isinstance(axis, Range) else axis.ends or (0.0, 0.0)
    return min(max(value, ends[0]), ends[1]) if isinstance(value, float | int) else ends[1]


# Whether a job can do what it asks for -------------------------------------------------------------------------------


def refused(spec: JobSpec) -> list[Rejection]:
    """What is wrong with a job's baseline and with what it wants to be tried."""
    if spec.baseline is not None and (wrong := _impossible("/baseline", partial(reference, spec))):
        return wrong
    space, found = spec.space(), list[Rejection]()
    for place, part in enumerate(spec.try_):
        at, given = f"/try/{place}", part.given()
        wrong = _unknown(space, at, given) or _impossible(at, partial(filled, spec, part))
        found += wrong or list(_outside(space, filled(spec, part), at, given))
    return found or _too_many(spec)


def _unknown(space: Space, at: str, given: Mapping[str, Any]) -> list[Rejection]:
    """Names that this job does not search."""
    named = (("optimizer", "name", space.optimizers), ("schedule", "family", space.schedules))
    return [
        {"pointer": f"{at}/{field}", "detail": f"found {given[field][tag]}; this job searches {', '.join(known)}"}
        for field, tag, known in named
        if field in given and given[field][tag] not in known
    ]


def _impossible(at: str, make: Callable[[], Configuration]) -> list[Rejection]:
    """What excludes one another once the rest is filled in: knobs, or an optimizer and a schedule."""
    try:
        name, family = make().kind
    except ValidationError as error:
        return [{"pointer": "/".join([at, *map(str, one["loc"])]), "detail": one["msg"]} for one in error.errors()]
    goes = OPTIMIZERS[name].families
    if goes is None or family in goes:
        return []
    return [{"pointer": f"{at}/schedule", "detail": f"found {family}; {name} goes with {', '.join(goes)} alone"}]


def _outside(space: Space, chosen: Configuration, at: str, given: Mapping[str, Any]) -> Iterator[Rejection]:
    """The knobs that were given and lie outside the space."""
    name, family = chosen.kind
    rate = {"learning_rate": space.optimizers[name]["learning_rate"]}
    for where, asked, axes in (
        (at, given, {**rate, **space.common}),
        (f"{at}/optimizer", given.get("optimizer", {}), space.optimizers[name]),
        (f"{at}/schedule", given.get("schedule", {}), space.schedules[family]),
    ):
        for knob, axis in axes.items():
            if knob in asked and (accepted := _accepted(axis, asked[knob])):
                yield {"pointer": f"{where}/{knob}", "detail": f"found {shown(asked[knob])}; {accepted}"}


def _accepted(axis: Axis, value: Any) -> str:
    """What this job accepts in place of a value; nothing where it accepts that."""
    if isinstance(axis, Fixed):
        same = (tuple(value) if isinstance(value, list) else value) == axis.value
        fixed = json.dumps(axis.value)
        return "" if same else f"this job has it fixed, so accepted is {fixed}, or a job that searches it"
    if isinstance(axis, Choice) and axis.ends is None:
        return "" if value in axis.options else f"accepted is one of {', '.join(map(json.dumps, axis.options))}"
    ends = (axis.low, axis.high) if isinstance(axis, Range) else axis.ends or (0.0, 0.0)
    inside = isinstance(value, float | int) and within(ends, value)
    return "" if inside else f"accepted is {ends[0]:g} to {ends[1]:g}, which this job searches"


def _too_many(spec: JobSpec) -> list[Rejection]:
    """A list that the budget cannot pay for; each is a full run, and so is the baseline."""
    most, wanted = spec.budget.most_runs, {filled(spec, part) for part in spec.try_} - {reference(spec)}
    if most is None or not wanted or len(wanted) + 1 <= most:
        return []
    room = max(0, math.floor(most) - 1)
    detail = f"found {len(wanted)} to try; the budget has room for {room} beside the baseline, each a full run"
    return [{"pointer": "/try", "detail": detail}]
