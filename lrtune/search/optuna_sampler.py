"""The `curve` search as an Optuna sampler, for anybody's study.

    def curve(params):                                  # your knobs -> the rates your run would use
        return [params["lr"] * (1 - (i + 0.5) / 64) ** params["power"] for i in range(64)]

    study = optuna.create_study(sampler=CurveSampler(curve, horizon=1000, seed=0))

The study's distributions describe the space; candidates are drawn from them, turned into curves, and scored by what
the study's trials (finished, pruned or running) say. Knobs named in `extras` enter beside the curve. Without a
function, `lr` (or `learning_rate`) is taken as a constant rate. Where `horizon_name` is given, that integer or
categorical parameter is the run's length and is chosen by the search, shorter horizons included.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from lrtune.search.engine.costs import Settings
from lrtune.search.engine.decide import decide
from lrtune.search.engine.types import Pool, Run, State
from lrtune.search.studies.draw import draw

Params = dict[str, Any]
CANDIDATES = 400
POINTS = 64  # of a curve
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "paused",
    TrialState.RUNNING: "running",
}


def constant(params: Params) -> list[float]:
    """The curve of a study that only searches a rate."""
    rate = params.get("learning_rate", params.get("lr"))
    if rate is None:
        raise ValueError("CurveSampler needs a function from parameters to a curve, or a parameter named 'lr'")
    return [float(rate)] * POINTS


class CurveSampler(optuna.samplers.BaseSampler):
    """Searches over learning-rate curves, whatever parameters they are made of."""

    def __init__(
        self,
        curve: Callable[[Params], Sequence[float]] = constant,
        *,
        horizon: int = 1000,
        horizon_name: str | None = None,
        extras: Sequence[str] = (),
        seed: int = 0,
        settings: Settings | None = None,
    ) -> None:
        self.curve, self.horizon, self.horizon_name = curve, horizon, horizon_name
        self.extras, self.seed = tuple(extras), seed
        # A study trains a trial in one stage; its pruner may stop it, but nothing resumes it.
        self.settings = settings or Settings(partial_runs=False, short_horizons=horizon_name is not None)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Every parameter that all finished trials share, as Optuna's own relative samplers do. Raises ValueError."""
        _refuse_several(study)
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """The next point of the space, and its reason as a user attribute of the trial. Raises ValueError."""
        _refuse_several(study)
        if not search_space:
            return {}
        random = np.random.default_rng([self.seed, trial.number])
        drawn = [{n: draw(d, random) for n, d in search_space.items()} for _ in range(CANDIDATES)]
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        runs = self._runs(study, trial, search_space, sign)
        pool = self._pool(drawn)
        decision, _ = decide(pool, runs, self.horizon, self.seed, self.settings)
        if decision is None:
            return {}
        params = dict(drawn[pool.keys[decision.row]])
        if self.horizon_name in params:
            params[self.horizon_name] = decision.horizon
        study._storage.set_trial_user_attr(trial._trial_id, "reason", decision.reason)
        return params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Before the space is known, at random: the first trial's parameters. Raises ValueError."""
        _refuse_several(study)
        random = np.random.default_rng([self.seed, trial.number, zlib.crc32(param_name.encode())])
        return draw(param_distribution, random)

    def _horizon(self, params: Params) -> int:
        """How many steps a trial takes."""
        return int(params.get(self.horizon_name, self.horizon)) if self.horizon_name else self.horizon

    def _extras(self, params: Params) -> tuple[float, ...]:
        return tuple(float(params.get(name, 0.0)) for name in self.extras)

    def _pool(self, drawn: list[Params]) -> Pool:
        """The drawn points at the target, and where the horizon is a parameter at the horizon drawn as well."""
        rows = [(i, self.horizon, p) for i, p in enumerate(drawn)]
        rows += [(i, h, p) for i, p in enumerate(drawn) if (h := self._horizon(p)) < self.horizon]
        horizons = np.array([h for _, h, _ in rows])
        curves = np.array([_resampled(self.curve(p)) for _, _, p in rows])
        extras = np.array([self._extras(p) for _, _, p in rows]).reshape(len(rows), -1)
        return Pool(
            keys=tuple(key for key, _, _ in rows),
            horizons=horizons,
            curves=curves,
            extras=extras,
            free=np.zeros(len(rows), dtype=np.int64),
            every=np.maximum(horizons // 10, 1),
        )

    def _runs(
        self, study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution], sign: float
    ) -> list[Run]:
        """The study's trials as runs; their keys are negative, those of the candidates are not."""
        runs = []
        for other in study.get_trials(deepcopy=False):
            known = other.number != trial.number and all(name in other.params for name in space)
            if known and other.state in (*STATES, TrialState.FAIL):
                runs.append(self._run(other, sign))
        return runs

    def _run(self, trial: FrozenTrial, sign: float) -> Run:
        horizon = self._horizon(trial.params)
        reports = [(step, sign * v) for step, v in sorted(trial.intermediate_values.items()) if 0 < step < horizon]
        state = STATES.get(trial.state, "diverged")
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            reports.append((horizon, sign * trial.value))
        if state == "diverged":
            reports.append((reports[-1][0] + 1 if reports else 1, math.nan))
        curve = tuple(_resampled(self.curve(trial.params)))
        return Run(-1 - trial.number, horizon, curve, self._extras(trial.params), tuple(reports), state, horizon)


def _refuse_several(study: optuna.Study) -> None:
    """Raise ValueError for a study that no single value judges."""
    if len(study.directions) > 1:
        raise ValueError(f"CurveSampler: found {len(study.directions)} objectives; accepted is a study with one")


def _resampled(curve: Sequence[float]) -> list[float]:
    """A curve of any length at `POINTS` evenly spaced points."""
    if len(curve) == POINTS:
        return [float(v) for v in curve]
    at = (np.arange(POINTS) + 0.5) / POINTS * len(curve) - 0.5
    return [float(v) for v in np.interp(at, np.arange(len(curve)), np.asarray(curve, dtype=float))]
