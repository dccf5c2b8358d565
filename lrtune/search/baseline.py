"""What most people would run untuned: a job's baseline, and where the knobs stand that nobody has searched yet."""

from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.schedules import Cosine
from lrtune.space import Axis, Fixed, Point
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Proposal

WARMUP = 0.05


def baseline(spec: JobSpec) -> Proposal:
    """The first trial of a job."""
    name = spec.optimizers[0].name
    return Proposal(
        configuration=usual(spec, name),
        role="baseline",
        seed=spec.search.seed,
        reason=f"untuned baseline: {name} at its usual rate {OPTIMIZERS[name].usual:g}, cosine, 5 % warm-up",
    )


def usual(spec: JobSpec, name: str) -> Configuration:
    """An optimizer of the job's at its usual rate, cosine, 5 % warm-up; knobs that the job fixes as it fixes them."""
    space = spec.space()
    static = {knob: axis.value for knob, axis in space.optimizers[name].items() if isinstance(axis, Fixed)}
    static.pop("learning_rate", None)
    around = {knob: _usual(knob, axis) for knob, axis in space.common.items()} | {"warmup": WARMUP}
    return Configuration.model_validate(
        {
            "optimizer": optimizer(name, **static),
            "learning_rate": OPTIMIZERS[name].usual,
            "schedule": Cosine(),
            **around,
        }
    )


def _usual(knob: str, axis: Axis) -> Point:
    """A knob around the schedule as the job fixes it, else as it is when a job does not name it."""
    default: Point = JobSpec.model_fields[knob].default
    return axis.value if isinstance(axis, Fixed) else default
