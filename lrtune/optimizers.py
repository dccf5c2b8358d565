"""Every optimizer that can be tuned: its static knobs, its usual rate and the rates searched by default.

One frozen class an optimizer; the fields are the arguments of torch's (or its package's) with their defaults, `usual`
is the rate most people would start with (the untuned baseline, and the point the √2 grid of rates passes through). How
one is built is the worker's business (`worker/optimizers.py`). To add one, write one class here and one row there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

from lrtune.space import Flag, Number, checked, kebab, knob_values, knobs

LEARNING_RATE = Number(0.0, 1e3, log=True, above=True)
DECAY = Number(0.0, 10.0, log=True)
BETA = Number(0.0, 0.999999)
EPS = Number(0.0, 1.0, log=True, above=True)


class Optimizer:
    """An optimizer's name and static knobs; the learning rate is not one of them.

    `families` are the only schedules that go with it (None: any), `packaged` the package beside torch and
    its class there, `unsharded` why the weights that it moves cannot be spread over devices (empty: they can).
    """

    __slots__ = ()
    usual: ClassVar[float]
    rates: ClassVar[tuple[float, float]]
    families: ClassVar[tuple[str, ...] | None] = None
    packaged: ClassVar[tuple[str, str] | None] = None
    unsharded: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        """The wire form: the name and the knobs."""
        return {"name": kebab(type(self)), **knob_values(self)}

    def effective(self, rate: float) -> float:
        """The effective learning rate, in units of the usual one: by it, rates of runs with other knobs compare.

        With momentum m each step goes on as a geometric series, to 1 / (1 - m) of itself (Goodfellow et al. 2016,
        "Deep Learning", section 8.3.2).
        """
        return rate / self.usual * self._gain

    @property
    def _gain(self) -> float:
        """How much longer steps are, at the same rate, than with the default knobs."""
        return 1.0


Made = TypeVar("Made", bound=Optimizer)
OPTIMIZERS: dict[str, type[Optimizer]] = {}


@dataclass_transform(frozen_default=True)
def listed(cls: type[Made]) -> type[Made]:
    """List an optimizer under its kebab-case name."""
    made: type[Made] = dataclass(frozen=True, slots=True)(cls)
    OPTIMIZERS[kebab(made)] = made
    return made


def optimizer(name: str, /, **values: object) -> Optimizer:
    """The optimizer of a name and knob values. Raises ValueError that says what would be accepted."""
    if name not in OPTIMIZERS:
        raise ValueError(f"found the optimizer {name!r}; accepted is one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](**checked(OPTIMIZERS[name], values))


def catalogue(cls: type[Optimizer]) -> Mapping[str, Any]:
    """What the API lists of one optimizer."""
    return {
        "usual": cls.usual,
        "rates": cls.rates,
        "schedules": cls.families,
        "knobs": {name: knob.schema() for name, knob in knobs(cls).items()},
    }


@listed
class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum."""

    usual: ClassVar[float] = 0.1
    rates: ClassVar[tuple[float, float]] = (1e-3, 3.0)
    momentum: Annotated[float, BETA] = 0.9
    nesterov: Annotated[bool, Flag()] = False
    weight_decay: Annotated[float, DECAY] = 0.0

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov: found true with momentum 0; accepted is a momentum above 0, or nesterov false")

    @property
    def _gain(self) -> float:
        return (1 - 0.9) / (1 - self.momentum)


@listed
class Adagrad(Optimizer):
    """Rates divided by the root of all squared gradients so far."""

    usual: ClassVar[float] = 0.01
    rates: ClassVar[tuple[float, float]] = (3e-4, 1.0)
    lr_decay: Annotated[float, DECAY] = 0.0
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-10


@listed
class Rmsprop(Optimizer):
    """Rates divided by a running root mean square of the gradients."""

    usual: ClassVar[float] = 1e-3
    rates: ClassVar[tuple[float, float]] = (1e-5, 0.1)
    alpha: Annotated[float, BETA] = 0.99
    momentum: Annotated[float, BETA] = 0.0
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8

    @property
    def _gain(self) -> float:
        return 1 / (1 - self.momentum)


@listed
class Adam(Optimizer):
    """Momentum and a running root mean square, both corrected for their start."""

    usual: ClassVar[float] = 1e-3
    rates: ClassVar[tuple[float, float]] = (1e-5, 0.1)
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8


@listed
class Adamw(Optimizer):
    """Adam with decoupled weight decay."""

    usual: ClassVar[float] = 1e-3
    rates: ClassVar[tuple[float, float]] = (1e-5, 0.1)
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.01
    eps: Annotated[float, EPS] = 1e-8


@listed
class Nadam(Optimizer):
    """Adam with Nesterov momentum."""

    usual: ClassVar[float] = 2e-3
    rates: ClassVar[tuple[float, float]] = (2e-5, 0.1)
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8


@listed
class Radam(Optimizer):
    """Adam whose adaptive rate waits until its variance is known."""

    usual: ClassVar[float] = 1e-3
    rates: ClassVar[tuple[float, float]] = (1e-5, 0.1)
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8


@listed
class Adamax(Optimizer):
    """Adam with the largest recent gradient in place of the root mean square."""

    usual: ClassVar[float] = 2e-3
    rates: ClassVar[tuple[float, float]] = (2e-5, 0.1)
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8


@listed
class Adadelta(Optimizer):
    """Steps scaled by the size of recent steps; its rate is a plain factor."""

    usual: ClassVar[float] = 1.0
    rates: ClassVar[tuple[float, float]] = (0.01, 10.0)
    rho: Annotated[float, BETA] = 0.9
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-6


@listed
class Muon(Optimizer):
    """Orthogonalised momentum for the matrices, scaled to AdamW's step sizes; AdamW at the same rate for the rest."""

    usual: ClassVar[float] = 1e-3
    rates: ClassVar[tuple[float, float]] = (1e-5, 0.1)
    unsharded: ClassVar[str] = "orthogonalises whole matrices"
    momentum: Annotated[float, BETA] = 0.95
    nesterov: Annotated[bool, Flag()] = True
    weight_decay: Annotated[float, DECAY] = 0.01
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    eps: Annotated[float, EPS] = 1e-8


@listed
class ScheduleFreeAdamw(Optimizer):
    """AdamW that averages its weights in place of a falling rate; after a warm-up the rate is constant."""

    usual: ClassVar[float] = 2.5e-3
    rates: ClassVar[tuple[float, float]] = (2e-4, 0.03)
    families: ClassVar[tuple[str, ...] | None] = ("constant",)
    packaged: ClassVar[tuple[str, str] | None] = ("schedulefree", "AdamWScheduleFree")
    beta1: Annotated[float, Number(0.0, 0.999999, above=True)] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8


@listed
class Prodigy(Optimizer):
    """Adam that estimates its own step size; its rate is a factor on that, and 1 the usual one."""

    usual: ClassVar[float] = 1.0
    rates: ClassVar[tuple[float, float]] = (0.25, 4.0)
    packaged: ClassVar[tuple[str, str] | None] = ("prodigyopt", "Prodigy")
    unsharded: ClassVar[str] = "estimates its step size from all weights at once"
    beta1: Annotated[float, BETA] = 0.9
    beta2: Annotated[float, BETA] = 0.999
    weight_decay: Annotated[float, DECAY] = 0.0
    eps: Annotated[float, EPS] = 1e-8
    d_coef: Annotated[float, Number(0.0, 100.0, log=True, above=True)] = 1.0
    use_bias_correction: Annotated[bool, Flag()] = False
    safeguard_warmup: Annotated[bool, Flag()] = True
