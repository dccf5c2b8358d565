"""The `forecast` pruner: stop a run only when the forecast of its *final* value says that it cannot matter.

A half-finished annealed run has a bad value and may still win, so what is judged is not the value now but the forecast
of the value at the end, from the run's reports and from everything this job has seen. Some runs that would be stopped
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
from lrtune.search.engine.normalise import EVERYTHING, in_words
from lrtune.search.engine.types import Array, Pool, Run

VIEWS = (0.0, 8.0)  # linear widths of the normalised score, one for each view
WILD = 6.0  # beyond which a leave-one-out z-score counts no further
LIKE = 0.75  # of a run's decay ahead that a completed run must have had to be evidence of its end
ASKED = (0.1, 0.25, 0.5, 0.75)  # shares of a run after which it is judged: a forecast costs as much as a short run
TRUST = 2.0  # completed runs that count as much as the model's own standard deviation


@dataclass(frozen=True)
class Rules:
    """When to stop a run, and how the stopping is checked."""

    chance: float = 0.05  # stop below this probability of beating the best
    audit: float = 0.15  # share of the would-be-stopped that run on
    allowed: float = 0.1  # false-stop rate that the pruner may be shown to have
    least_completed: int = 3  # full runs before any forecast is acted upon
    least_share: float = 0.1  # of its horizon that a run must have trained
    sign: float = 1.0  # -1 where values are encoded negated; only the reasons read it, and
    limits: tuple[float, float] = EVERYTHING  # what encoded values lie between


@dataclass(frozen=True)
class EarlyStop:
    """Whether to stop and why; `audit`: it runs on only to check the forecast; `off`: because the check has failed."""

    stop: bool
    reason: str
    audit: bool = False
    chance: float = 1.0
    off: bool = False


@dataclass(frozen=True)
class Audit:
    """What the audit of a job has shown: runs let run on, how many of them would have mattered, full runs saved."""

    audited: int
    false: int
    saved: float
    on: bool

    @property
    def rate(self) -> float:
        """The share of false stops among the audited."""
        return self.false / self.audited if self.audited else 0.0


@dataclass(frozen=True)
class EndForecast:
    """A run's final value, and the chance that it beats the best: `ends` are as `Normaliser.quantiles` gives them."""

    ends: Array
    chance: float


def judge(
    runs: Sequence[Run], running: Run, target: int, seed: int = 0, rules: Rules = Rules(), checked: Audit | None = None
) -> EarlyStop:
    """Whether a running run should stop now. `runs` are the job's other runs, oldest first."""
    if running.reports and not np.isfinite(running.reports[-1][1]):
        return EarlyStop(True, "diverged", chance=0.0)
    hopeless, chance, words = _hopeless(runs, running, target, rules)
    if not hopeless:
        return EarlyStop(False, words, chance=chance)
    if _drawn_for_audit(running, seed, rules.audit):
        return EarlyStop(False, f"runs on as an audit: {words}", audit=True, chance=chance)
    checked = checked or audit([run for run in runs if run.state != "running"], seed, rules, target)
    if not checked.on:
        text = f"forecasts failed the audit ({checked.false} of {checked.audited} false stops): not stopped"
        return EarlyStop(False, text, chance=chance, off=True)
    return EarlyStop(True, words, chance=chance)


def due(before: int, now: int, horizon: int) -> bool:
    """Whether a run is to be judged at its report `now`: the first at or behind one of the shares, after `before`."""
    return any(before < share * horizon <= now for share in ASKED)


def _hopeless(runs: Sequence[Run], running: Run, target: int, rules: Rules) -> tuple[bool, float, str]:
    """Whether the forecast rules a run out, its chance, and the forecast in words."""
    horizon = running.horizon
    completed = [run for run in runs if run.completed(horizon)]
    if len(completed) < rules.least_completed:
        return False, 1.0, f"only {len(completed)} completed runs to forecast from"
    if running.steps < rules.least_share * horizon:
        return False, 1.0, "too early to forecast"
    best = best_completed(completed, horizon)
    if best is None:
        return False, 1.0, "no completed run to beat"
    share = running.steps / horizon
    like = sum(decay_ahead(run, share) >= LIKE * decay_ahead(running, share) for run in completed)
    if like < rules.least_completed:
        return False, 1.0, f"only {like} completed runs that had as much decay ahead of them"
    found = forecast(runs, running, target, rules.chance, rules.limits)
    against = f"against {rules.sign * best:.4g}, chance {found.chance:.1%}"
    words = f"forecast {in_words(rules.sign * found.ends)} {against}"
    return found.chance < rules.chance, found.chance, words


def best_completed(runs: Sequence[Run], horizon: int) -> float | None:
    """The best final value over a horizon."""
    finals = [run.reports[-1][1] for run in runs if run.completed(horizon)]
    return min((value for value in finals if np.isfinite(value)), default=None)


def decay_ahead(run: Run, share: float) -> float:
    """How far the rate still falls after a share of a run, of its highest so far: the loss so far can't show it."""
    curve = np.abs(np.array(run.curve))
    now = max(int(share * len(curve)), 1)
    highest = float(curve[:now].max())
    return max(float(curve[now - 1] - curve[-3:].mean()) / highest, 0.0) if highest > 0 else 0.0


def forecast(
    runs: Sequence[Run],
    running: Run,
    target: int,
    enough: float = 1.0,
    limits: tuple[float, float] = EVERYTHING,
) -> EndForecast:
    """Forecast of a run's final value by the view that gives it the best chance; the first with `enough` will do.

    Two views, because nobody knows how the effects of a rate add up: as they are, and by orders of magnitude.
    """
    # Every run counts as far as it got: expectations of its end would pass for knowledge of it.
    known = [replace(run, until=run.steps) for run in runs if (run.key, run.horizon) != (running.key, running.horizon)]
    known.append(replace(running, until=running.steps))
    found: list[EndForecast] = []
    for linear_width in VIEWS:
        found.append(_forecast_last(known, target, linear_width, limits))
        if found[-1].chance >= enough:
            break
    return max(found, key=lambda one: one.chance)


def _forecast_last(runs: Sequence[Run], target: int, linear_width: float, limits: tuple[float, float]) -> EndForecast:
    """One view's forecast of the last of some runs.

    Its predictive standard deviation is stretched to what the forecasts of the completed runs, each left out, were
    wrong by: by the root mean square of their z-scores and of `TRUST` more of one. So estimated, it makes a t
    distribution of the normal one.
    """
    *others, running = runs
    # The runs themselves are the options, so that extras are scaled by what the job has tried.
    pool = Pool(
        keys=tuple(run.key for run in runs),
        horizons=np.array([run.horizon for run in runs]),
        curves=np.array([run.curve for run in runs]),
        extras=np.array([run.extras for run in runs], dtype=float).reshape(len(runs), -1),
        free=np.array([run.steps for run in runs]),
        every=np.ones(len(runs), dtype=np.int64),
    )
    model = JobModel(pool, runs, target, linear_width=linear_width)
    mean, variance = model.forecast(np.array([len(others)]))
    z_scores = np.clip(model.z_scores(running.steps), -WILD, WILD)
    wrong = np.sqrt((TRUST + (z_scores**2).sum()) / (TRUST + len(z_scores)))
    std = float(max(wrong, 1.0) * np.sqrt(variance[0] + model.process.kernel.noise))
    ends = model.normaliser.quantiles(running.horizon, mean[0], std, limits)
    best = best_completed(others, running.horizon)
    if best is None:
        return EndForecast(ends, 1.0)
    score = model.normaliser.score(np.array([running.horizon]), np.array([best]))[0]
    chance = float(stdtr(max(len(z_scores) - 1, 2), (score - mean[0]) / std))
    return EndForecast(ends, chance)


def audit(runs: Sequence[Run], seed: int = 0, rules: Rules = Rules(), target: int | None = None) -> Audit:
    """Replay the forecasts on the runs that ran on although they would have been stopped.

    A completed run whose draw makes it an audit counts as audited if some earlier report would have stopped it, and
    as false if it then beat the best value that the runs before it had reached. The pruner goes off once more false
    stops are shown than allowed: one alone is forgiven only after many good ones.
    """
    target = target or max((run.horizon for run in runs), default=1)
    audited = false = 0
    pruned = (run for run in runs if run.state == "paused" and run.steps < run.until)
    saved = sum(1 - run.steps / run.horizon for run in pruned)
    for index, run in enumerate(runs):
        if run.completed(run.horizon) and _drawn_for_audit(run, seed, rules.audit):
            before = tuple(runs[:index])
            if would_have_stopped(before, run, target, rules):
                best = best_completed(before, run.horizon)
                audited += 1
                false += best is not None and run.reports[-1][1] < best
    return Audit(audited, false, saved, on=false == 0 or false / audited <= rules.allowed)


def _drawn_for_audit(run: Run, seed: int, share: float) -> bool:
    """A draw that belongs to the run: the same answer at every report and after every restart."""
    return zlib.crc32(f"{seed}:{run.key}:{run.horizon}".encode()) / 2**32 < share


@lru_cache(maxsize=512)
def would_have_stopped(before: tuple[Run, ...], run: Run, target: int, rules: Rules) -> bool:
    """Whether the forecast at any of the reports at which a run is judged would have stopped it.

    Remembered, because it is dear and the audit asks for it at every report of a run that should stop.
    """
    last = 0
    for number, (now, _) in enumerate(run.reports, start=1):
        seen = replace(run, reports=run.reports[:number], until=now)
        if now < run.horizon and due(last, now, run.horizon) and _hopeless(before, seen, target, rules)[0]:
            return True
        last = now
    return False
