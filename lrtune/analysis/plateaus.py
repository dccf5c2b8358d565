"""Where good rates lie, for each family under each optimizer: plateaus, sensitivity, the edge of stability.

Configurations are compared over the seeds that both ran (`lrtune/analysis/paired.py`). Rates of different optimizers do
not compare, and those of different families only roughly, so every finding is for one optimizer and one family.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from lrtune.analysis import paired
from lrtune.analysis.answer import grouped, noise_of_candidates
from lrtune.analysis.paired import Runs, share
from lrtune.space import Space, within
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import End, FamilyFindings, Plateau, Slope, Stability
from lrtune.wire.results import OBSERVED, Best, Trial, TrialState

TOLERANCE = 0.01  # of the best value: what counts as equally good
# Near zero 1 % of the value means nothing, so the tolerance is at least this share of the way from the answer to the
# job's median configuration; where nothing says that zero is the metric's own, it is at most that one.
NEAR_ZERO, AT_MOST = 0.001, 0.05
NEAREST, FURTHEST = 0.25, 2.0  # doublings away: where the sensitivity is read off
SAME = 1e-9  # rates that differ by less, relative, are the same
Kind: TypeAlias = tuple[str, str]  # optimizer, family


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration at the job's horizon: `behind` the answer by so much, lower being better.

    None does not compare: they share no seed, or it diverged with more. `score` is its mean over `seeds` seeds; `count`
    trials of it were complete.
    """

    rate: float
    runs: Runs
    score: float
    seeds: int
    behind: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Landscape:
    """A job's runs and configurations by optimizer and family, the answer's first, and what counts as equally good.

    What lies within `chance` of each other luck explains. `even` are the numbers of the trials that say what a median
    one is; None: all do.
    """

    best: Best
    answer: Point
    tolerance: float
    chance: float
    runs: Mapping[Kind, Sequence[Trial]]
    points: Mapping[Kind, Sequence[Point]]
    even: Collection[int] | None = None

    @property
    def own(self) -> Kind:
        """The answer's optimizer and family."""
        return self.best.configuration.kind

    def behind(self, runs: Iterable[Trial]) -> float | None:
        """How much worse some runs of one configuration ended than the answer."""
        return paired.runs(runs, self.best.objective.sign).behind(self.answer.runs)

    def typical(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Those of some trials that say what a median one of them is: all, where none of them was chosen to."""
        return [one for one in trials if self.even is None or one.number in self.even] or trials


def landscape(best: Best, trials: Iterable[Trial], even: Collection[int] | None = None) -> Landscape:
    """These trials as the report reads them; `even` are the numbers of those that say what a median one is, or all."""
    trials = list(trials)
    runs: dict[Kind, list[Trial]] = {best.configuration.kind: []}
    for trial in trials:
        if trial.state in OBSERVED:
            runs.setdefault(trial.configuration.kind, []).append(trial)
    known = paired.answer(best, runs[best.configuration.kind])
    sign = best.objective.sign
    answer = Point(best.configuration.learning_rate, known, sign * best.value, len(best.seeds), 0.0, 0)
    points = {name: _points(best, answer, some) for name, some in runs.items()}
    every = [point for some in points.values() for point in some]
    compared = every if even is None else _points(best, answer, (one for one in trials if one.number in even))
    behind = [point.behind for point in compared if point.behind is not None]
    reference = best.baseline.configuration if best.baseline else None
    candidates = noise_of_candidates((trial for trial in trials if trial.completed(best.steps)), but=reference)
    tolerance, chance = _tolerance(best, median(behind) if behind else 0.0), paired.chance(best, candidates)
    return Landscape(best, answer, tolerance, chance, runs, points, even)


def _tolerance(best: Best, typical: float) -> float:
    """What counts as equally good, where the median configuration is `typical` behind the answer."""
    part = TOLERANCE * abs(best.value)
    if not best.objective.from_zero:
        part = min(part, AT_MOST * max(typical, 0.0))
    return max(part, NEAR_ZERO * typical)


def _points(best: Best, answer: Point, trials: Iterable[Trial]) -> list[Point]:
    """Every configuration that completed the job's horizon; the answer's value is the answer's."""
    trials = list(trials)
    points, whole = [], (t for t in trials if t.horizon == best.steps)
    diverged = Counter(t.configuration for t in whole if t.state is TrialState.DIVERGED)
    for group in grouped(t for t in trials if t.completed(best.steps)):
        # While fresh seeds have not decided they are no part of any comparison: some have run over more than others.
        deciding = [run for run in group if best.confirmed or run.role != "confirm"]
        chosen = group[0].configuration
        found = paired.runs(deciding, best.objective.sign)
        if chosen == best.configuration:
            points.append(Point(answer.rate, answer.runs, answer.score, answer.seeds, 0.0, len(group)))
        elif deciding:
            behind = None if diverged[chosen] > best.diverged else found.behind(answer.runs)
            seeds = len(found.fresh or found.searched)
            points.append(Point(chosen.learning_rate, found, found.score, seeds, behind, len(group)))
    return points


def families(spec: AdmittedJob, land: Landscape) -> list[FamilyFindings]:
    """What is known of each family under each optimizer, the answer's first."""
    others = sorted(name for name in land.runs if name != land.own)
    return [_family(spec, land, name) for name in (land.own, *others)]


def _family(spec: AdmittedJob, land: Landscape, name: Kind) -> FamilyFindings:
    points, metric = land.points[name], land.best.objective
    first = land.answer if name == land.own else _first(points)
    known = stability(land.runs[name], land.best.steps)
    return FamilyFindings(
        optimizer=name[0],
        family=name[1],
        runs=sum(point.count for point in points),
        best_rate=first.rate if first else None,
        best_value=metric.sign * first.score + 0.0 if first else None,  # 0, not -0
        seeds=first.seeds if first else 0,
        behind=first.behind if first else None,
        plateau=_plateau(land, name, first, spec.space()) if first else None,
        doubling=_slope(land, points, first, 1.0) if first else None,
        halving=_slope(land, points, first, -1.0) if first else None,
        largest_stable=known[0].largest_stable if known else None,
        smallest_diverged=known[0].smallest_diverged if known else None,
    )


def _first(points: Sequence[Point]) -> Point | None:
    """The best of some configurations: one that fresh seeds confirmed, before one that was lucky with its own.

    Those that do not compare with the answer come last.
    """

    def rank(point: Point) -> tuple[bool, bool, float, float]:
        behind = point.behind
        return behind is None, not point.runs.fresh, point.score if behind is None else behind, point.rate

    return min(points, key=rank, default=None)


def _plateau(land: Landscape, name: Kind, first: Point, space: Space) -> Plateau | None:
    """The stretch of rates around the best at each of which some configuration is as good as the answer."""
    points = land.points[name]
    diverged = [run.configuration.learning_rate for run in land.runs[name] if run.state is TrialState.DIVERGED]
    best_at = dict.fromkeys(diverged, math.inf)
    for point in points:
        if point.behind is not None:
            best_at[point.rate] = min(point.behind, best_at.get(point.rate, math.inf))
    if first.behind is None or first.behind > land.tolerance:
        return None
    below = [rate for rate in sorted(best_at, reverse=True) if rate <= first.rate]
    above = [rate for rate in sorted(best_at) if rate >= first.rate]
    low, high = (_last_good(some, best_at, land.tolerance) for some in (below, above))
    inside = [point for point in points if low <= point.rate <= high and point.behind is not None]
    good = sum(point.count for point in inside if point.behind is not None and point.behind <= land.tolerance)
    worse = sum(point.count for point in inside) - good + sum(low <= rate <= high for rate in diverged)
    return Plateau(low=low, high=high, runs=good, worse=worse, edges=_edges(space, name[0], low, high))


def _last_good(rates: Sequence[float], best_at: Mapping[float, float], tolerance: float) -> float:
    """The last of some rates, of which the first is good, before one that is not."""
    last = rates[0]
    for rate in rates:
        if best_at[rate] > tolerance:
            break
        last = rate
    return last


def _edges(space: Space, optimizer: str, low: float, high: float) -> list[End]:
    """The ends of the rates searched, which may be one, that a plateau reaches; none where it lies outside of them.

    One of `try` may lie between the last rate of the grid and the end of the range.
    """
    grid, asked = space.rates(optimizer), space.ends(optimizer)
    if grid is None or asked is None:
        return []
    found: dict[End, bool] = {
        "low": low <= grid[0] * (1 + SAME) and within(asked, low),
        "high": high >= grid[1] * (1 - SAME) and within(asked, high),
    }
    return [end for end, there in found.items() if there]


def _slope(land: Landscape, points: Iterable[Point], first: Point, direction: float) -> Slope | None:
    """The worsening per doubling (direction 1) or halving (-1), from the best point at each rate on that side."""
    lowest: dict[float, float] = {}
    for point in points:
        away = round(direction * (math.log2(point.rate) - math.log2(first.rate)), 6)
        if point.behind is None:
            continue
        if NEAREST <= away <= FURTHEST and (behind := point.runs.behind(first.runs)) is not None:
            lowest[away] = min(behind, lowest.get(away, math.inf))
    if len(lowest) < 2:
        return None
    absolute = median(behind / away for away, behind in lowest.items())
    relative = share(absolute, first.score) if land.best.objective.from_zero else None
    return Slope(absolute=absolute, relative=relative, rates=len(lowest))


def stability(trials: Iterable[Trial], steps: int) -> list[Stability]:
    """For each optimizer. A short run that completed does not count as stable: what diverges late would pass."""
    stable: dict[str, float] = {}
    diverged: dict[str, float] = {}
    for trial in trials:
        name, rate = trial.configuration.kind[0], trial.configuration.learning_rate
        if trial.completed(steps):
            stable[name] = max(rate, stable.get(name, 0.0))
        if trial.state is TrialState.DIVERGED:
            diverged[name] = min(rate, diverged.get(name, math.inf))
    names = sorted(stable.keys() | diverged.keys())
    return [Stability(optimizer=n, largest_stable=stable.get(n), smallest_diverged=diverged.get(n)) for n in names]
