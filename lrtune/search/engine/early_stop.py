"""The `forecast` pruner: stop a run only when the forecast of its *final* value says that it cannot matter.

A half-finished annealed run has a bad value and may still win, so what is judged is not the value now but the forecast
of the value at the end, from the run's reports and from everything this job has seen. Some runs that would be stopped
run on as an audit; if too many of them would have mattered after all, the pruner switches itself off in this job.
A verdict needs the job's runs alone; `KeptModels` keeps between verdicts what is dear to find again.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from scipy.special import stdtr

from lrtune.search.engine.kept_models import KeptModels, View
from lrtune.search.engine.normalise import EVERYTHING, in_words
from lrtune.search.engine.types import Array, Run

VIEWS = (0.0, 8.0)  # linear widths of the normalised score, one for each view
WILD = 6.0  # beyond which a leave-one-out z-score counts no further
LIKE = 0.75  # of a run's decay ahead that a completed run must have had to be evidence of its end
ASKED = (0.1, 0.25, 0.5, 0.75)  # shares of a run after which it is judged: a forecast costs as much as a short run
MOST_AUDITED = 40  # complete runs, the newest, on which forecasts are replayed
REPLAYED = 4  # of these replayed in one verdict, again the newest: a process that begins has them all before it
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
    runs: Sequence[Run],
    running: Run,
    target: int,
    seed: int = 0,
    rules: Rules = Rules(),
    checked: Audit | None = None,
    fitted: KeptModels | None = None,
) -> EarlyStop:
    """Whether a running run should stop now. `runs` are the job's other runs, oldest first."""
    fitted = fitted or KeptModels()
    if running.reports and not np.isfinite(running.reports[-1][1]):
        return EarlyStop(True, "diverged", chance=0.0)
    hopeless, chance, words = _hopeless(runs, running, target, rules, fitted)
    if not hopeless:
        return EarlyStop(False, words, chance=chance)
    fitted.hopeless[running.key, running.horizon] = True
    if _drawn_for_audit(running, seed, rules.audit):
        return EarlyStop(False, f"runs on as an audit: {words}", audit=True, chance=chance)
    checked = checked or audit([run for run in runs if run.state != "running"], seed, rules, target, fitted)
    if not checked.on:
        text = f"forecasts failed the audit ({checked.false} of {checked.audited} false stops): not stopped"
        return EarlyStop(False, text, chance=chance, off=True)
    return EarlyStop(True, words, chance=chance)


def due(before: int, now: int, horizon: int) -> bool:
    """Whether a run is to be judged at its report `now`: the first at or behind one of the shares, after `before`."""
    return any(before < share * horizon <= now for share in ASKED)


def _hopeless(
    runs: Sequence[Run], running: Run, target: int, rules: Rules, fitted: KeptModels
) -> tuple[bool, float, str]:
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
    if _ahead(running, completed, best):
        return False, 1.0, f"better already than {rules.sign * best:.4g}, the best"
    share = running.steps / horizon
    ahead = LIKE * decay_ahead(running, share)
    enough = islice((run for run in completed if decay_ahead(run, share) >= ahead), rules.least_completed)
    if (like := len(list(enough))) < rules.least_completed:
        return False, 1.0, f"only {like} completed runs that had as much decay ahead of them"
    found = forecast(runs, running, target, rules.chance, rules.limits, fitted)
    against = f"against {rules.sign * best:.4g}, chance {found.chance:.1%}"
    words = f"forecast {in_words(rules.sign * found.ends)} {against}"
    return found.chance < rules.chance, found.chance, words


def _ahead(running: Run, completed: Sequence[Run], best: float) -> bool:
    """Whether a run is better than the best now, and no completed run has become as much worse from here on.

    Who has never been seen to get worse is not forecast to, whatever the others of its kind came to.
    """
    lead = best - running.reports[-1][1]
    then = [max((one for one in run.reports if one[0] <= running.steps), default=(0, np.inf))[1] for run in completed]
    return lead > 0 and not any(run.reports[-1][1] - value >= lead for run, value in zip(completed, then, strict=True))


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
    fitted: KeptModels | None = None,
) -> EndForecast:
    """Forecast of a run's final value by the view that gives it the best chance; the first with `enough` will do.

    Two views, because nobody knows how the effects of a rate add up: as they are, and by orders of magnitude.
    """
    # Every run counts as far as it got: expectations of its end would pass for knowledge of it.
    own = running.key, running.horizon
    known = [run if run.until == run.steps else replace(run, until=run.steps) for run in runs]
    known = [run for run in known if (run.key, run.horizon) != own]
    running, fitted = replace(running, until=running.steps), fitted or KeptModels()
    found: list[EndForecast] = []
    for linear_width in VIEWS:
        view = fitted.view(known, running, target, linear_width)
        found.append(_by(view, running, best_completed(known, running.horizon), limits))
        if found[-1].chance >= enough:
            break
    return max(found, key=lambda one: one.chance)


def _by(view: View, running: Run, best: float | None, limits: tuple[float, float]) -> EndForecast:
    """One view's forecast of a run.

    Its predictive standard deviation is stretched to what the forecasts of the completed runs, each left out, were
    wrong by: by the root mean square of their z-scores and of `TRUST` more of one. So estimated, it makes a t
    distribution of the normal one.
    """
    model, (mean, variance) = view.model, view.forecast(running)
    z_scores = np.clip(view.z_scores(running), -WILD, WILD)
    wrong = np.sqrt((TRUST + (z_scores**2).sum()) / (TRUST + len(z_scores)))
    std = float(max(wrong, 1.0) * np.sqrt(variance + model.process.kernel.noise))
    ends = model.normaliser.quantiles(running.horizon, mean, std, limits)
    if best is None:
        return EndForecast(ends, 1.0)
    score = model.normaliser.score(np.array([running.horizon]), np.array([best]))[0]
    return EndForecast(ends, float(stdtr(max(len(z_scores) - 1, 2), (score - mean) / std)))


def audit(
    runs: Sequence[Run],
    seed: int = 0,
    rules: Rules = Rules(),
    target: int | None = None,
    fitted: KeptModels | None = None,
) -> Audit:
    """Replay the forecasts on the runs that ran on although they would have been stopped.

    A completed run whose draw makes it an audit counts as audited if some earlier report would have stopped it, and
    as false if it then beat the best value that the runs before it had reached. The pruner goes off once more false
    stops are shown than allowed: one alone is forgiven only after many good ones. At most `REPLAYED` are replayed in
    one go; what was found of a run is kept, so each verdict asks for some more.
    """
    target, fitted = target or max((run.horizon for run in runs), default=1), fitted or KeptModels()
    audited = false = 0
    pruned = (run for run in runs if run.state == "paused" and run.steps < run.until)
    saved = sum(1 - run.steps / run.horizon for run in pruned)
    complete = [(n, run) for n, run in enumerate(runs) if run.completed(run.horizon)]
    drawn = [n for n, run in complete if _drawn_for_audit(run, seed, rules.audit)][-MOST_AUDITED:]
    later = [n for n in drawn if (runs[n].key, runs[n].horizon) not in fitted.hopeless][:-REPLAYED]
    now = set(drawn).difference(later)
    best: dict[int, float] = {}  # of those before, over each horizon
    for index, run in complete:
        before, end = best.get(run.horizon, np.inf), run.reports[-1][1]
        if index in now and fitted.replay(
            run, partial(_would_have_stopped, runs[:index], run, target, rules, fitted.beside())
        ):
            audited, false = audited + 1, false + (end < before < np.inf)
        best[run.horizon] = min(before, end) if np.isfinite(end) else before
    return Audit(audited, false, saved, on=false == 0 or false / audited <= rules.allowed)


def _drawn_for_audit(run: Run, seed: int, share: float) -> bool:
    """A draw that belongs to the run: the same answer at every report and after every restart."""
    return zlib.crc32(f"{seed}:{run.key}:{run.horizon}".encode()) / 2**32 < share


def _would_have_stopped(before: Sequence[Run], run: Run, target: int, rules: Rules, fitted: KeptModels) -> bool:
    """Whether the forecast at any of the reports at which a run is judged would have stopped it."""
    last = 0
    for number, (now, _) in enumerate(run.reports, start=1):
        seen = replace(run, reports=run.reports[:number], until=now)
        if now < run.horizon and due(last, now, run.horizon) and _hopeless(before, seen, target, rules, fitted)[0]:
            return True
        last = now
    return False
