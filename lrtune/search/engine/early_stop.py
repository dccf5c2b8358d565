"""The `forecast` pruner: stop a run only when the forecast of its *final* value says that it cannot matter.

A half-finished annealed run has a bad value and may still win, so what is judged is not the value now but the forecast
of the value at the end, from the run's reports and from everything this job has seen. Some runs that would be stopped
run on as an audit; if too many of them would have mattered after all, the pruner switches itself off in this job.
A verdict needs the job's runs alone; `KeptModels` keeps between verdicts what is dear to find again.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

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


class AtStep(NamedTuple):
    """The completed runs after so many steps: their values then and at the end, and the decay that they had ahead."""

    values: Array
    ends: Array
    decays: Array


class Past:
    """A job's runs, oldest first, and what of them every run is compared with, found once for all that are judged."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = [run.so_far for run in runs]
        self._completed: dict[int, list[Run]] = {}
        self._best: dict[int, float] = {}
        self._at_step: dict[tuple[int, int], AtStep] = {}

    def completed(self, horizon: int) -> list[Run]:
        """Those that were trained to the end of a horizon."""
        if horizon not in self._completed:
            self._completed[horizon] = [run for run in self.runs if run.completed(horizon)]
        return self._completed[horizon]

    def best(self, horizon: int) -> float:
        """The best final value over a horizon; infinite where there is none."""
        if horizon not in self._best:
            finals = [run.reports[-1][1] for run in self.completed(horizon)]
            self._best[horizon] = min((value for value in finals if np.isfinite(value)), default=np.inf)
        return self._best[horizon]

    def at_step(self, horizon: int, steps: int) -> AtStep:
        """The completed runs after some steps; before its first report a run's value is infinite."""
        if (horizon, steps) not in self._at_step:
            completed = self.completed(horizon)
            values = [_value(run, steps) for run in completed]
            ends = [run.reports[-1][1] for run in completed]
            decays = [decay_ahead(run.curve, steps / horizon) for run in completed]
            self._at_step[horizon, steps] = AtStep(np.array(values), np.array(ends), np.array(decays))
        return self._at_step[horizon, steps]

    def ahead(self, run: Run) -> bool:
        """Whether a run stands better than all complete ones ended, of which none was seen to get worse by as much."""
        by = self.best(run.horizon) - run.reports[-1][1] if run.reports else -np.inf
        there = self.at_step(run.horizon, run.steps)
        return bool(0 < by < np.inf and not (there.ends - there.values >= by).any())


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
    return judge_each(runs, [running], target, seed, rules, checked, fitted)[0]


def judge_each(
    runs: Sequence[Run],
    asked: Sequence[Run],
    target: int,
    seed: int = 0,
    rules: Rules = Rules(),
    checked: Audit | None = None,
    fitted: KeptModels | None = None,
) -> list[EarlyStop]:
    """The same of several, which may be among the `runs`: what is dear is done once for all of them."""
    fitted, said = fitted or KeptModels(), list[EarlyStop]()
    for run, found in zip(asked, _hopeless(Past(runs), asked, target, rules, fitted), strict=True):
        if run.reports and not np.isfinite(run.reports[-1][1]):
            said.append(EarlyStop(True, "diverged", chance=0.0))
            continue
        if not found.hopeless:
            said.append(EarlyStop(False, found.words, chance=found.chance))
            continue
        fitted.hopeless[run.key, run.horizon] = True
        if _drawn_for_audit(run, seed, rules.audit):
            said.append(EarlyStop(False, f"runs on as an audit: {found.words}", audit=True, chance=found.chance))
            continue
        checked = checked or audit([run for run in runs if run.state != "running"], seed, rules, target, fitted)
        failed = f"forecasts failed the audit ({checked.false} of {checked.audited} false stops): not stopped"
        words = found.words if checked.on else failed
        said.append(EarlyStop(checked.on, words, chance=found.chance, off=not checked.on))
    return said


def due(before: int, now: int, horizon: int) -> bool:
    """Whether a run is to be judged at its report `now`: the first at or behind one of the shares, after `before`."""
    return any(before < share * horizon <= now for share in ASKED)


class _Found(NamedTuple):
    """Whether the forecast rules a run out, its chance to beat the best, and why in words."""

    hopeless: bool
    chance: float
    words: str


def _hopeless(past: Past, asked: Sequence[Run], target: int, rules: Rules, fitted: KeptModels) -> list[_Found]:
    """Which of these runs the forecast rules out."""
    kept = [_runs_on(past, run, rules) for run in asked]
    open_ = [run for run, words in zip(asked, kept, strict=True) if not words]
    forecasts = iter(forecast(past, open_, target, rules.chance, rules.limits, fitted))
    return [
        _Found(False, 1.0, words) if words else _by_forecast(next(forecasts), past.best(run.horizon), rules)
        for run, words in zip(asked, kept, strict=True)
    ]


def _by_forecast(found: EndForecast, best: float, rules: Rules) -> _Found:
    words = f"forecast {in_words(rules.sign * found.ends)} against {rules.sign * best:.4g}, chance {found.chance:.1%}"
    return _Found(found.chance < rules.chance, found.chance, words)


def _runs_on(past: Past, running: Run, rules: Rules) -> str:
    """Why a run goes on whatever would be forecast of it; nothing where that is to be asked."""
    horizon = running.horizon
    completed, best = past.completed(horizon), past.best(horizon)
    if len(completed) < rules.least_completed:
        return f"only {len(completed)} completed runs to forecast from"
    if running.steps < rules.least_share * horizon:
        return "too early to forecast"
    if np.isinf(best):
        return "no completed run to beat"
    if past.ahead(running):  # whatever the others of its kind came to
        return f"better already than {rules.sign * best:.4g}, the best"
    there, value = past.at_step(horizon, running.steps), running.reports[-1][1]
    like = there.values[there.decays >= LIKE * decay_ahead(running.curve, running.steps / horizon)]
    if len(like) < rules.least_completed:
        return f"only {len(like)} completed runs that had as much decay ahead of them"
    # However well the rates explain what the others came to: they do not explain this one.
    first = best <= value <= like.min()
    return "no completed run that had as much decay ahead of it was better here" if first else ""


def _value(run: Run, steps: int) -> float:
    """A run's last value within so many steps."""
    seen = bisect_right(run.reports, (steps, np.inf))
    return run.reports[seen - 1][1] if seen else np.inf


@lru_cache(maxsize=4096)  # of the runs of some jobs, at the few shares at which runs are judged
def decay_ahead(rates: tuple[float, ...], share: float) -> float:
    """How far a curve still falls after a share of a run, of its highest so far: the loss so far can't show it."""
    curve = np.abs(np.array(rates))
    now = max(int(share * len(curve)), 1)
    highest = float(curve[:now].max())
    return max(float(curve[now - 1] - curve[-3:].mean()) / highest, 0.0) if highest > 0 else 0.0


def forecast(
    past: Past,
    asked: Sequence[Run],
    target: int,
    enough: float = 1.0,
    limits: tuple[float, float] = EVERYTHING,
    fitted: KeptModels | None = None,
) -> list[EndForecast]:
    """Forecasts of the runs' final values, each by the view that gives it the best chance; the first `enough` will do.

    Two views, because nobody knows how the effects of a rate add up: as they are, and by orders of magnitude.
    """
    fitted, found = fitted or KeptModels(), dict[int, EndForecast]()
    waiting = list(range(len(asked)))
    for linear_width in VIEWS if asked else ():
        first = asked[waiting[0]].so_far
        known = [run for run in past.runs if (run.key, run.horizon) != (first.key, first.horizon)]
        view = fitted.view(known, first, target, linear_width)
        for place, one in zip(waiting, _by(view, [asked[place] for place in waiting], past, limits), strict=True):
            found[place] = max(one, found.get(place, one), key=lambda forecast: forecast.chance)
        waiting = [place for place in waiting if found[place].chance < enough]
        if not waiting:
            break
    return [found[place] for place in range(len(asked))]


def _by(view: View, asked: Sequence[Run], past: Past, limits: tuple[float, float]) -> Iterator[EndForecast]:
    """One view's forecasts of some runs.

    The predictive standard deviation is stretched to what the forecasts of the completed runs, each left out, were
    wrong by: by the root mean square of their z-scores and of `TRUST` more of one. So estimated, it makes a t
    distribution of the normal one.
    """
    normaliser, noise = view.model.normaliser, view.model.process.kernel.noise
    for run, mean, variance in zip(asked, *view.forecast(asked), strict=True):
        z_scores = np.clip(view.z_scores(run), -WILD, WILD)
        wrong = np.sqrt((TRUST + (z_scores**2).sum()) / (TRUST + len(z_scores)))
        std = float(max(wrong, 1.0) * np.sqrt(variance + noise))
        ends, best = normaliser.quantiles(run.horizon, mean, std, limits), past.best(run.horizon)
        if np.isinf(best):
            yield EndForecast(ends, 1.0)
            continue
        score = normaliser.score(np.array([run.horizon]), np.array([best]))[0]
        yield EndForecast(ends, float(stdtr(max(len(z_scores) - 1, 2), (score - mean) / std)))


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
    last, past = 0, Past(before)
    for number, (now, _) in enumerate(run.reports, start=1):
        seen = replace(run, reports=run.reports[:number], until=now)
        if now < run.horizon and due(last, now, run.horizon) and _hopeless(past, [seen], target, rules, fitted)[0][0]:
            return True
        last = now
    return False
