"""Where good rates lie, for each family under each optimizer: plateaus, sensitivity, the edge of stability.

A configuration's value is its mean over fresh seeds where it has any, else over its search runs; the answer's is the
answer's. Rates of different optimizers do not compare, and those of different families only roughly, so every finding
is for one optimizer and one family.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeAlias

from lrtune.analysis.answer import grouped
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import End, FamilyFindings, Plateau, Slope, Stability
from lrtune.wire.results import OBSERVED, Best, Trial, TrialState

TOLERANCE = 0.01  # of the best value: what counts as equally good
# Near zero 1 % of the value means nothing, so the tolerance is at least this share of the way from the answer to the
# job's median run.
NEAR_ZERO = 0.001
NEAREST, FURTHEST = 0.25, 2.0  # doublings away: where the sensitivity is read off
SAME = 1e-9  # rates that differ by less, relative, are the same
Kind: TypeAlias = tuple[str, str]  # optimizer, family


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration at the job's horizon: what its runs came to, lower being better."""

    rate: float
    score: float
    runs: int


@dataclass(frozen=True, slots=True)
class Landscape:
    """A job's runs and configurations by optimizer and family, the answer's first, and what counts as equally good."""

    best: Best
    sign: float
    tolerance: float
    runs: Mapping[Kind, Sequence[Trial]]
    points: Mapping[Kind, Sequence[Point]]

    @property
    def own(self) -> Kind:
        """The answer's optimizer and family."""
        return self.best.configuration.kind

    @property
    def answer(self) -> Point:
        """The answer as a point."""
        return Point(self.best.configuration.learning_rate, self.sign * self.best.value, len(self.best.seeds))


def landscape(best: Best, trials: Iterable[Trial]) -> Landscape:
    """These trials as the report reads them."""
    sign = best.objective.sign
    runs: dict[Kind, list[Trial]] = {best.configuration.kind: []}
    for trial in trials:
        if trial.state in OBSERVED:
            runs.setdefault(trial.configuration.kind, []).append(trial)
    points = {name: _points(best, sign, some) for name, some in runs.items()}
    scores = [point.score for some in points.values() for point in some]
    typical = median(scores) if scores else sign * best.value
    tolerance = max(TOLERANCE * abs(best.value), NEAR_ZERO * (typical - sign * best.value))
    return Landscape(best, sign, tolerance, runs, points)


def _points(best: Best, sign: float, trials: Iterable[Trial]) -> list[Point]:
    """Every configuration that completed the job's horizon."""
    points = []
    for runs in grouped(t for t in trials if t.completed(best.steps)):
        deciding = [run for run in runs if run.role == "confirm"] or runs
        mean = fmean(run.value for run in deciding if run.value is not None)
        value = best.value if runs[0].configuration == best.configuration else mean
        points.append(Point(runs[0].configuration.learning_rate, sign * value, len(runs)))
    return points


def families(spec: AdmittedJob, land: Landscape) -> list[FamilyFindings]:
    """What is known of each family under each optimizer, the answer's first."""
    others = sorted(name for name in land.runs if name != land.own)
    return [_family(spec, land, name) for name in (land.own, *others)]


def _family(spec: AdmittedJob, land: Landscape, name: Kind) -> FamilyFindings:
    points = land.points[name]
    first = min(points, key=lambda point: (point.score, point.rate), default=None)
    first = land.answer if name == land.own else first
    known = stability(land.runs[name], land.best.steps)
    return FamilyFindings(
        optimizer=name[0],
        family=name[1],
        runs=sum(point.runs for point in points),
        best_rate=first.rate if first else None,
        best_value=land.sign * first.score if first else None,
        plateau=_plateau(points, land.answer.score + land.tolerance, _ends(spec, name[0])),
        doubling=_slope(points, first, 1.0) if first else None,
        halving=_slope(points, first, -1.0) if first else None,
        largest_stable=known[0].largest_stable if known else None,
        smallest_diverged=known[0].smallest_diverged if known else None,
    )


def _plateau(points: Sequence[Point], limit: float, ends: Mapping[End, float]) -> Plateau | None:
    good = [point for point in points if point.score <= limit]
    if not good:
        return None
    low, high = min(point.rate for point in good), max(point.rate for point in good)
    between, runs = (sum(point.runs for point in some if low <= point.rate <= high) for some in (points, good))
    reached: dict[End, float] = {"low": low, "high": high}
    edges = [end for end, rate in ends.items() if math.isclose(rate, reached[end], rel_tol=SAME)]
    return Plateau(low=low, high=high, runs=runs, worse=between - runs, edges=edges)


def _ends(spec: AdmittedJob, optimizer: str) -> dict[End, float]:
    """The ends of the job's range of rates; nothing where the rate is fixed or the optimizer was not asked for."""
    low, high = spec.space().rates(optimizer) or (0.0, 0.0)
    return {"low": low, "high": high} if low < high else {}


def _slope(points: Iterable[Point], first: Point, direction: float) -> Slope | None:
    """The worsening per doubling (direction 1) or halving (-1), from the best point at each rate on that side."""
    lowest: dict[float, float] = {}
    for point in points:
        away = round(direction * (math.log2(point.rate) - math.log2(first.rate)), 6)
        if NEAREST <= away <= FURTHEST:
            lowest[away] = min(point.score, lowest.get(away, math.inf))
    if len(lowest) < 2:
        return None
    absolute = median((score - first.score) / away for away, score in lowest.items())
    return Slope(absolute=absolute, relative=share(absolute, first.score), rates=len(lowest))


def share(part: float, of: float) -> float | None:
    """A part relative to the size of something; None where that is zero, or next to it."""
    found = part / abs(of) if of else math.inf
    return found if math.isfinite(found) else None


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
