"""What most people would run untuned: a job's baseline, and where the knobs stand that nobody has searched yet."""

from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.schedules import Cosine
from lrtune.space import Fixed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import JobSpec
from lrtune.wire.results import Proposal

WARMUP = 0.05


def baseline(spec: JobSpec, *, steps: int) -> Proposal:
    """The first trial of a job."""
    name = spec.optimizers[0].name
    return Proposal(
        configuration=usual(spec, name),
        role="baseline",
        seed=spec.search.seed,
        horizon=steps,
        reason=f"untuned baseline: {name} at its usual rate {OPTIMIZERS[name].usual:g}, cosine, 5 % warm-up",
    )


def usual(spec: JobSpec, name: str) -> Configuration:
    """An optimizer of the job's at its usual rate, cosine, 5 % warm-up.

    Knobs that the job fixes are as it fixes them, those that it searches as they are in a job that does not name them.
    """
    space = spec.space()
    static = {knob: axis.value for knob, axis in space.optimizers[name].items() if isinstance(axis, Fixed)}
    static.pop("learning_rate", None)
    common = {
        knob: axis.value if isinstance(axis, Fixed) else JobSpec.model_fields[knob].default
        for knob, axis in space.common.items()
    }
    return Configuration.model_validate(
        {
            "optimizer": optimizer(name, **static),
            "learning_rate": OPTIMIZERS[name].usual,
            "schedule": Cosine(),
            **common,
            "warmup": WARMUP,
        }
    )
