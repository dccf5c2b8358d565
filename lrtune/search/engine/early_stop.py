"""The `forecast` pruner: stop a trial only when the forecast of its *final* value says that it cannot matter.

A half-finished annealed run looks bad and may still win, so what is judged is not the value now but the forecast of the
value at the end, from the trial's history and from everything this job has seen. Some trials that would be stopped
run on as an audit; if too many of them would have mattered after all, the pruner switches itself off in this job.
Everything is a pure function of the job's runs: nothing has to be remembered between calls.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import stdtr

from lrtune.search.engine.model import JobModel
from lrtune.search.engine.types import Pool, Run

VIEWS = (0.0, 8.0)  # scales above the best up to which a view is linear
WILD = 6.0  # standard deviations beyond which a surprise is just a surprise
LIKE = 0.75  # of a trial's decay ahead that a completed run must have had to speak for it
ASKED = (0.1, 0.25, 0.5, 0.75)  # shares of a run after which it is judged: a forecast costs as much as a short run
TRUST = 2.0  # completed runs that count as much as the model's own word


@dataclass(frozen=True)
class Rules:
    """When to stop a trial, and how the stopping is checked."""

    chance: float = 0.05  # stop below this probability of beating the best
    audit: float = 0.15  # share of the would-be-stopped that run on
    allowed: float = 0.1  # false-stop rate that the pruner may be shown to have
    least_completed: int = 3  # full runs before any forecast is acted upon
    least_share: float = 0.1  # of its horizon that a trial must have trained
    sign: float = 1.0  # -1 where values are told negated; only the reasons read it


@dataclass(frozen=True)
class Verdict:
    """Whether to stop and why; `audit`: it runs on only to check the forecast; `off`: because the check has failed."""

    stop: bool
    reason: str
    audit: bool = False
    chance: float = 1.0
    off: bool = False


@dataclass(frozen=True)
class Audit:
    """What the audit of a job has shown: trials let run on, how many of them would have mattered, runs saved."""

    audited: int
    false: int
    saved: float
    on: bool

    @property
    def rate(self) -> float:
        """The share of false stops among the audited."""
        return self.false / self.audited if self.audited else 0.0


@dataclass(frozen=True)
class Forecast:
    """A trial's final value: expected, give or take, and the chance that it beats the best."""

    value: float
    plus_minus: float
    chance: float


def forecast(runs: Sequence[Run], trial: Run, target: int, enough: float = 1.0) -> Forecast:
    """Forecast of a trial's final value by the view that gives it the best chance; the first with `enough` will do.

    Two views, because nobody knows how the effects of a rate add up: as they are, and by orders of magnitude.
    """
    # What runs is told as far as it got: expectations of its end would pass for knowledge of it.
    others = [replace(run, until=run.steps) for run in runs if (run.key, run.horizon) != (trial.key, trial.horizon)]
    found: list[Forecast] = []
    for straight in VIEWS:
        found.append(_view(others, replace(trial, until=trial.steps), target, straight))
        if found[-1].chance >= enough:
            break
    return max(found, key=lambda one: one.chance)


def _view(others: Sequence[Run], trial: Run, target: int, straight: float) -> Forecast:
    """One view. Its doubt is at least what its forecasts of the completed runs, each left out, were wrong by."""
    model = JobModel(_pool_of([*others, trial]), [*others, trial], target, straight=straight)
    mean, variance, _ = model.forecast(np.array([model.index[trial.key, trial.horizon]]))
    surprises = np.clip(model.surprises(trial.steps), -WILD, WILD)
    wrong = np.sqrt((TRUST + (surprises**2).sum()) / (TRUST + len(surprises)))
    std = float(max(wrong, 1.0) * np.sqrt(variance[0] + model.process.theta.noise))
    value, high, low = (float(v) for v in model.levels.value(trial.horizon, mean[0] + std * np.array([0.0, 1.0, -1.0])))
    best = best_completed(others, trial.horizon)
    if best is None:
        return Forecast(value, (high - low) / 2, 1.0)
    bar = model.levels.score(np.array([trial.horizon]), np.array([best]))[0]
    return Forecast(value, (high - low) / 2, float(stdtr(max(len(surprises) - 1, 2), (bar - mean[0]) / std)))


def decay_ahead(run: Run, share: float) -> float:
    """How far the rate still falls after a share of a run, of its highest so far: the loss so far can't show it."""
    curve = np.abs(np.array(run.curve))
    now = max(int(share * len(curve)), 1)
    highest = float(curve[:now].max())
    return max(float(curve[now - 1] - curve[-3:].mean()) / highest, 0.0) if highest > 0 else 0.0


def _pool_of(runs: Sequence[Run]) -> Pool:
    """The runs themselves as options, so that knobs are scaled by what the job has tried."""
    extras = np.array([run.extras for run in runs], dtype=float).reshape(len(runs), -1)
    return Pool(
        tuple(run.key for run in runs),
        np.array([run.horizon for run in runs]),
        np.array([run.curve for run in runs]),
        extras,
        np.array([run.steps for run in runs]),
        np.ones(len(runs), dtype=np.int64),
    )


def best_completed(runs: Sequence[Run], horizon: int) -> float | None:
    """The best final value over a horizon."""
    finals = [r.reports[-1][1] for r in runs if r.horizon == horizon and r.steps >= horizon and r.state != "diverged"]
    return min((v for v in finals if np.isfinite(v)), default=None)


def _chosen_for_audit(run: Run, seed: int, share: float) -> bool:
    """A draw that belongs to the trial: the same answer at every report and after every restart."""
    return zlib.crc32(f"{seed}:{run.key}:{run.horizon}".encode()) / 2**32 < share


def audit(runs: Sequence[Run], seed: int = 0, rules: Rules = Rules(), target: int | None = None) -> Audit:
    """Replay the forecasts on the trials that ran on although they would have been stopped.

    A completed trial whose draw makes it an audit counts as audited if some earlier report would have stopped it, and
    as false if it then beat the best value that the runs before it had reached.
    """
    target = target or max((run.horizon for run in runs), default=1)
    audited = false = 0
    pruned = (run for run in runs if run.state == "stopped" and run.steps < run.until)
    saved = sum(1 - run.steps / run.horizon for run in pruned)
    for number, run in enumerate(runs):
        if run.steps < run.horizon or run.state == "diverged" or not _chosen_for_audit(run, seed, rules.audit):
            continue
        before = list(runs[:number])
        if would_have_stopped(tuple(before), run, target, rules):
            best = best_completed(before, run.horizon)
            audited += 1
            false += best is not None and run.reports[-1][1] < best
    return Audit(audited, false, saved, _trusted(audited, false, rules))


def _trusted(audited: int, false: int, rules: Rules) -> bool:
    """Off once the audit shows more false stops than allowed: one alone is forgiven only after many good ones."""
    return false == 0 or false / audited <= rules.allowed


@lru_cache(maxsize=512)
def would_have_stopped(before: tuple[Run, ...], run: Run, target: int, rules: Rules) -> bool:
    """Whether the forecast at a quarter, a half or three quarters of a run would have stopped it.

    Remembered, because it is dear and the audit asks for it at every report of a trial that should stop.
    """
    for share in (0.25, 0.5, 0.75):
        seen = tuple(r for r in run.reports if r[0] <= share * run.horizon)
        if seen and _hopeless(before, replace(run, reports=seen, until=seen[-1][0]), target, rules)[0]:
            return True
    return False


def due(before: int, now: int, horizon: int) -> bool:
    """Whether a run is to be judged at its report `now`: the first at or behind one of the shares, after `before`."""
    return any(before < share * horizon <= now for share in ASKED)


def _hopeless(runs: Sequence[Run], trial: Run, target: int, rules: Rules) -> tuple[bool, float, str]:
    """Whether the forecast rules a trial out, its chance, and the forecast in words."""
    done = [r for r in runs if r.horizon == trial.horizon and r.steps >= r.horizon and r.state != "diverged"]
    if len(done) < rules.least_completed:
        return False, 1.0, f"only {len(done)} completed runs to forecast from"
    if trial.steps < rules.least_share * trial.horizon:
        return False, 1.0, "too early to forecast"
    best = best_completed(done, trial.horizon)
    if best is None:
        return False, 1.0, "no completed run to beat"
    share = trial.steps / trial.horizon
    like = sum(decay_ahead(run, share) >= LIKE * decay_ahead(trial, share) for run in done)
    if like < rules.least_completed:
        return False, 1.0, f"only {like} completed runs that had as much decay ahead of them"
    seen = forecast(runs, trial, target, rules.chance)
    against = f"against {rules.sign * best:.4g}, chance {seen.chance:.1%}"
    words = f"forecast {rules.sign * seen.value:.4g} ± {seen.plus_minus:.2g} {against}"
    return seen.chance < rules.chance, seen.chance, words


def judge(
    runs: Sequence[Run], trial: Run, target: int, seed: int = 0, rules: Rules = Rules(), checked: Audit | None = None
) -> Verdict:
    """Whether a running trial should stop now. `runs` are the job's other runs, oldest first."""
    if trial.reports and not np.isfinite(trial.reports[-1][1]):
        return Verdict(True, "diverged", chance=0.0)
    hopeless, chance, words = _hopeless(runs, trial, target, rules)
    if not hopeless:
        return Verdict(False, words, chance=chance)
    if _chosen_for_audit(trial, seed, rules.audit):
        return Verdict(False, f"runs on as an audit: {words}", audit=True, chance=chance)
    checked = checked or audit([run for run in runs if run.state != "running"], seed, rules, target)
    if not checked.on:
        text = f"forecasts failed the audit ({checked.false} of {checked.audited} false stops): not stopped"
        return Verdict(False, text, chance=chance, off=True)
    return Verdict(True, words, chance=chance)
