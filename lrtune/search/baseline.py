"""A job's baseline: the user's own settings, else what most people would run untuned (and where knobs stand before any
search).
"""

from collections.abc import Mapping
from typing import Any

from lrtune.analysis.words import described
from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.schedules import Constant, Cosine
from lrtune.space import Axis, Fixed, Point
from lrtune.wire.configuration import Configuration, rejected, rises
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Proposal

WARMUP = 0.05


def baseline(spec: JobSpec, *, steps: int) -> Proposal:
    """The first trial of a job."""
    chosen, name = reference(spec), spec.optimizers[0].name
    first = ", the first of the job's optimizers," if len(spec.optimizers) > 1 else ""
    words = (
        f"untuned baseline: {name}{first} at its usual rate {OPTIMIZERS[name].usual:g}, {chosen.kind[1]}, 5 % warm-up"
    )
    if spec.baseline is not None:
        words = f"your own settings, the job's baseline: {described(chosen)}"
    return Proposal(configuration=chosen, role="baseline", seed=spec.search.seed, horizon=steps, reason=words)


def reference(spec: JobSpec) -> Configuration:
    """What the answer is compared with: the job's own settings, else its first optimizer's usual ones.

    What own settings leave out: the job's first optimizer, its and the family's knobs as the job fixes them, else at
    their defaults; a constant rate without warm-up; the job's clips where it fixes them, else none. Raises
    ValidationError where the knobs exclude one another.
    """
    if spec.baseline is None:
        return usual(spec, spec.optimizers[0].name)
    given, space = spec.baseline.given(), spec.space()
    own, shape = (
        given.pop("optimizer", {"name": spec.optimizers[0].name}),
        given.pop("schedule", {"family": "constant"}),
    )
    refuse_warmup(shape["family"], given)
    clips = {knob: axis for knob, axis in space.common.items() if knob.startswith("clip")}
    return Configuration.model_validate(
        {
            **_fixed(clips),
            **given,
            "optimizer": {**_fixed(space.optimizers.get(own["name"], {})), **own},
            "schedule": {**_fixed(space.schedules.get(shape["family"], {})), **shape},
        }
    )


def refuse_warmup(family: str, given: Mapping[str, Any]) -> None:
    """Raise ValidationError where a warm-up is asked for in front of a family that has none."""
    if given.get("warmup") and rises(family):
        sentence = f"found {given['warmup']:g}; {family} rises by itself and has no warm-up, so accepted is 0"
        raise rejected(("warmup",), sentence, given["warmup"])


def _fixed(axes: Mapping[str, Axis]) -> dict[str, Point]:
    """The knobs beside the rate that a job fixes."""
    return {knob: axis.value for knob, axis in axes.items() if isinstance(axis, Fixed) and knob != "learning_rate"}


def usual(spec: JobSpec, name: str) -> Configuration:
    """An optimizer of the job's at its usual rate, under the usual schedule.

    Knobs that the job fixes are as it fixes them, those that it searches as they are in a job that does not name them.
    """
    space = spec.space()
    common = {
        knob: axis.value if isinstance(axis, Fixed) else JobSpec.model_fields[knob].default
        for knob, axis in space.common.items()
    }
    return Configuration.model_validate(
        {
            "optimizer": optimizer(name, **_fixed(space.optimizers[name])),
            "learning_rate": OPTIMIZERS[name].usual,
            "schedule": Cosine() if OPTIMIZERS[name].families is None else Constant(),
            **common,
            "warmup": WARMUP,
        }
    )
