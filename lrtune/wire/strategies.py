"""How a job is searched: the samplers, the pruners and their knobs. Each is carried out in `lrtune/search/`."""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from lrtune.wire.configuration import OrName, Strict, named

Startup = Annotated[int, Field(ge=1, le=1000)]
Reports = Annotated[int, Field(ge=0, le=1000)]


class Tpe(Strict):
    """Tree-structured Parzen estimator, multivariate and grouped."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Startup = 10
    n_ei_candidates: Annotated[int, Field(ge=1, le=1000)] = 24


class Gp(Strict):
    """Gaussian process over all knobs at once."""

    name: Literal["gp"] = "gp"
    n_startup_trials: Startup = 10


class Cmaes(Strict):
    """Covariance matrix adaptation over all numeric knobs at once."""

    name: Literal["cmaes"] = "cmaes"
    n_startup_trials: Startup = 1


class Random(Strict):
    """Independent random draws."""

    name: Literal["random"] = "random"


class Qmc(Strict):
    """A low-discrepancy sequence."""

    name: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"


class Grid(Strict):
    """Every combination once, in random order; each range is cut into `points`."""

    name: Literal["grid"] = "grid"
    points: Annotated[int, Field(ge=2, le=100)] = 3


class CurveSearch(Strict):
    """A Gaussian process over learning-rate curves, whatever family they are of; other knobs beside them."""

    name: Literal["curve"] = "curve"
    short_horizons: bool = False


class NoPruner(Strict):
    """Every trial runs to its end, unless it diverges."""

    name: Literal["none"] = "none"


class Median(Strict):
    """Stop a trial that is worse than the median of the others at the same report."""

    name: Literal["median"] = "median"
    n_startup_trials: Startup = 5
    n_warmup_reports: Reports = 0


class Percentile(Strict):
    """Stop a trial that is not among the best `percentile` per cent at the same report."""

    name: Literal["percentile"] = "percentile"
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    n_startup_trials: Startup = 5
    n_warmup_reports: Reports = 0


class SuccessiveHalving(Strict):
    """Keep one in `reduction_factor` at each rung; rungs are counted in reports."""

    name: Literal["successive-halving"] = "successive-halving"
    min_reports: Annotated[int, Field(ge=1, le=1000)] = 1
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 4
    min_early_stopping_rate: Annotated[int, Field(ge=0, le=100)] = 0


class Hyperband(Strict):
    """Successive halving from several first rungs at once."""

    name: Literal["hyperband"] = "hyperband"
    min_reports: Annotated[int, Field(ge=1, le=20)] = 1
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 3


class Patient(Strict):
    """Stop a trial that has not improved by `min_delta` over `patience` reports."""

    name: Literal["patient"] = "patient"
    patience: Annotated[int, Field(ge=0, le=1000)] = 5
    min_delta: Annotated[float, Field(ge=0, le=1e9)] = 0.0


class Threshold(Strict):
    """Stop a trial whose metric leaves an interval."""

    name: Literal["threshold"] = "threshold"
    lower: float | None = None
    upper: float | None = None
    n_warmup_reports: Reports = 0

    @model_validator(mode="after")
    def _some(self) -> Self:
        low, high = (-math.inf if self.lower is None else self.lower), (math.inf if self.upper is None else self.upper)
        if low >= high or (self.lower is None and self.upper is None):
            raise PydanticCustomError("threshold", "accepted is lower, upper or both, with lower below upper")
        return self


class Forecast(Strict):
    """Stop a trial whose forecast final value beats the best with less than `probability`; a share `audit` runs on."""

    name: Literal["forecast"] = "forecast"
    probability: Annotated[float, Field(gt=0, lt=1)] = 0.05
    audit: Annotated[float, Field(ge=0, le=1)] = 0.15


def _union(options: Any) -> Any:
    names = [option.model_fields["name"].default for option in options.__args__]
    union = Annotated[options, Discriminator("name")]
    return Annotated[union, BeforeValidator(named("name", names)), OrName(names)]


Samplers: TypeAlias = Tpe | Gp | Cmaes | Random | Qmc | Grid | CurveSearch
WARM_STARTED = (CurveSearch, Tpe, Gp)  # the samplers that can learn from earlier jobs
Pruners: TypeAlias = NoPruner | Median | Percentile | SuccessiveHalving | Hyperband | Patient | Threshold | Forecast
if TYPE_CHECKING:
    AnySampler: TypeAlias = Samplers
    AnyPruner: TypeAlias = Pruners
else:
    AnySampler = _union(Samplers)
    AnyPruner = _union(Pruners)


class Search(Strict):
    """How the next trial is chosen, what stops one early, and the seed of both and of the training."""

    sampler: AnySampler = CurveSearch()
    pruner: AnyPruner = Forecast()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
