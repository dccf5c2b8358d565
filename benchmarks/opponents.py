"""General tools, correctly configured: Optuna's samplers and pruners on a replay table.

A table holds finitely many configurations, so a proposal is moved to the nearest one that has not been run, and the
sampler learns of the point that really ran, not of the one it asked for.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.replay import Ledger, Row, Table

Point = dict[str, Any]
OPPONENTS = ("random", "tpe", "tpe-median", "tpe-median-half", "tpe-hyperband", "gp")
_IGNORED = ("schedule_knobs", "warmup_steps")


@dataclass(frozen=True)
class Space:
    """A table's configurations as points of an Optuna space."""

    distributions: dict[str, BaseDistribution]
    points: dict[str, Point]
    family_of: dict[str, str]
    conditional: bool

    def active(self, family: str) -> list[str]:
        """The parameters that a family has in this space."""
        own = f"{family}."
        return [n for n in self.distributions if "." not in n or not self.conditional or n.startswith(own)]


def _raw_point(row: Row, conditional: bool) -> Point:
    """Names and values of one configuration; knobs belong to their family where the space is conditional."""
    point: Point = {k: v for k, v in row.params.items() if k not in _IGNORED and not isinstance(v, dict | list)}
    for name, value in row.extras.items():
        point[f"extra:{name}"] = value
        point.pop(name.removeprefix("log10_").removeprefix("one_minus_"), None)
    point.pop("epsilon", None) if "extra:log10_eps" in point else None
    family = point.get("schedule", "")
    for name, value in row.params.get("schedule_knobs", {}).items():
        point[f"{family}.{name}" if conditional else f"knob.{name}"] = str(value) if isinstance(value, list) else value
    return point


def _distribution(values: list[Any]) -> BaseDistribution | None:
    if len(set(values)) < 2:
        return None
    if any(isinstance(v, str | bool) for v in values):
        return CategoricalDistribution(sorted({str(v) for v in values}))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low > 20)


def make_space(table: Table, conditional: bool) -> Space:
    """The space in which a general tool would search a table."""
    rows = table.at_target()
    raw = {row.config: _raw_point(row, conditional) for row in rows}
    names = sorted({name for point in raw.values() for name in point})
    distributions: dict[str, BaseDistribution] = {}
    for name in names:
        distribution = _distribution([point[name] for point in raw.values() if name in point])
        if distribution is not None:
            distributions[name] = distribution
    points = {c: _complete(point, distributions, conditional) for c, point in raw.items()}
    families = {row.config: str(row.params.get("schedule", "")) for row in rows}
    return Space(distributions, points, families, conditional)


def _complete(point: Point, distributions: dict[str, BaseDistribution], conditional: bool) -> Point:
    """Keep what the space has; in a flat space fill the knobs that a family lacks with a middle value."""
    full: Point = {}
    for name, distribution in distributions.items():
        if name in point:
            categorical = isinstance(distribution, CategoricalDistribution)
            full[name] = str(point[name]) if categorical else float(point[name])
        elif not conditional:
            full[name] = _middle(distribution)
    return full


def _middle(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution)
    if distribution.log:
        return math.sqrt(distribution.low * distribution.high)
    return (distribution.low + distribution.high) / 2


def _gap(a: Any, b: Any, distribution: BaseDistribution) -> float:
    """Distance of two values of one parameter, 1 across its range; another category counts double."""
    if not isinstance(distribution, FloatDistribution):
        return 0.0 if a == b else 2.0
    if distribution.log:
        return abs(math.log(a / b)) / math.log(distribution.high / distribution.low)
    return float(abs(a - b) / (distribution.high - distribution.low))


def nearest(space: Space, asked: Point, taken: set[str]) -> str | None:
    """The configuration not yet run that lies closest to what was asked for."""

    def distance(config: str) -> float:
        point = space.points[config]
        gaps = [_gap(asked[n], v, space.distributions[n]) for n, v in point.items() if n in asked]
        return sum(gap * gap for gap in gaps)

    free = [config for config in space.points if config not in taken]
    return min(free, key=distance) if free else None


def _sampler(strategy: str, seed: int) -> optuna.samplers.BaseSampler:
    if strategy == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if strategy == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _pruner(strategy: str, n_reports: int) -> optuna.pruners.BasePruner:
    if strategy == "tpe-median":
        return optuna.pruners.MedianPruner()
    if strategy == "tpe-median-half":
        return optuna.pruners.MedianPruner(n_warmup_steps=n_reports // 2)
    if strategy == "tpe-hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=n_reports)
    return optuna.pruners.NopPruner()


def _ask(study: optuna.Study, space: Space) -> tuple[optuna.trial.Trial, Point]:
    trial = study.ask()
    point: Point = {}
    names = list(space.distributions)
    if "schedule" in names:
        point["schedule"] = trial._suggest("schedule", space.distributions["schedule"])
        names = [n for n in space.active(point["schedule"]) if n != "schedule"]
    for name in names:
        point[name] = trial._suggest(name, space.distributions[name])
    return trial, point


def _tell_what_ran(study: optuna.Study, trial: optuna.trial.Trial, point: Point, space: Space) -> None:
    """Put the point that really runs in place of the one that was asked for (in-memory storage hands out its own)."""
    frozen = study._storage._get_trial(trial._trial_id)  # type: ignore[attr-defined]
    frozen.params = dict(point)
    frozen.distributions = {name: space.distributions[name] for name in point}


def bounded(value: float, seen: list[float]) -> float:
    """Diverged or absurd values become a very bad finite one: samplers ignore failures and choke on 1e30."""
    good = sorted(v for v in seen if math.isfinite(v))
    cap = 5 * abs(good[len(good) // 2]) + 1 if good else 1e3
    return min(value, cap) if math.isfinite(value) else cap


def _train(trial: optuna.trial.Trial, row: Row, ledger: Ledger, seen: list[float]) -> tuple[float, bool]:
    """Follow a run report by report until it ends or the pruner stops it."""
    value = math.nan
    for index, (step, _) in enumerate(row.reports, start=1):
        value = ledger.run(row.key, step)[-1][1]
        if not math.isfinite(value):
            break
        trial.report(bounded(value, seen), index)
        if step < row.horizon and trial.should_prune():
            return value, True
    return value, False


def _steps(study: optuna.Study, table: Table, space: Space, ledger: Ledger) -> Iterator[None]:
    rows, taken, seen = {r.config: r for r in table.at_target()}, set[str](), list[float]()
    while True:
        trial, asked = _ask(study, space)
        config = nearest(space, asked, taken)
        if config is None:
            return
        taken.add(config)
        _tell_what_ran(study, trial, space.points[config], space)
        value, pruned = _train(trial, rows[config], ledger, seen)
        seen.append(value)
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if pruned else bounded(value, seen), state=state)
        yield


def replay_optuna(table: Table, strategy: str, seed: int, conditional: bool, done: Callable[[Ledger], bool]) -> Ledger:
    """Let Optuna search a table until `done` says that enough has been seen."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    n_reports = max(len(row.reports) for row in table.at_target())
    study = optuna.create_study(
        sampler=_sampler(strategy, seed), pruner=_pruner(strategy, n_reports), study_name=f"{table.name}-{seed}"
    )
    ledger = Ledger(table, share=False)
    for _ in _steps(study, table, make_space(table, conditional), ledger):
        if done(ledger):
            break
    return ledger
