"""How much worse one configuration is than another: over the seeds that both ran, because a seed is luck for both.

A mean over fresh seeds beside somebody's single run compares luck with none: the run that found a configuration was
selected for being low. So differences are taken seed by seed (common random numbers, Law 2014, "Simulation Modeling and
Analysis", sec. 11.2), over fresh seeds where two configurations share some.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from lrtune.analysis.additive import Additive
from lrtune.analysis.answer import LEAST, around, interval, quantile
from lrtune.wire.report import Lift
from lrtune.wire.results import Best, SeedValue, Trial


@dataclass(frozen=True, slots=True)
class Runs:
    """A configuration's complete runs over the job's horizon: a score by seed, lower being better."""

    fresh: Mapping[int, float]
    searched: Mapping[int, float]

    @property
    def score(self) -> float:
        """The mean over fresh seeds, where there are any, else over the search's."""
        return fmean((self.fresh or self.searched).values())

    def behind(self, other: "Runs") -> float | None:
        """How much worse than another: the mean difference over the seeds that both ran; None without any.

        Where no two trials share a seed, as in imported jobs, runs of the search compare with runs of the search.
        """
        pairs = _shared(self.fresh, other.fresh) or _shared(
            {**self.searched, **self.fresh}, {**other.searched, **other.fresh}
        )
        if pairs:
            return fmean(own - theirs for own, theirs in pairs)
        for own, theirs in ((self.searched, other.searched), (self.fresh, other.fresh)):
            if own and theirs:
                return fmean(own.values()) - fmean(theirs.values())
        return None


def _shared(one: Mapping[int, float], other: Mapping[int, float]) -> list[tuple[float, float]]:
    return [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]


def runs(trials: Iterable[Trial], sign: float) -> Runs:
    """The runs of one configuration, the first of each seed."""
    fresh: dict[int, float] = {}
    searched: dict[int, float] = {}
    for trial in trials:
        if trial.value is not None:
            (fresh if trial.role == "confirm" else searched).setdefault(trial.seed, sign * trial.value)
    return Runs(fresh, searched)


def answer(best: Best, trials: Iterable[Trial]) -> Runs:
    """The answer's runs, those that it was chosen by among them."""
    sign = best.objective.sign
    known = runs((t for t in trials if t.configuration == best.configuration and t.completed(best.steps)), sign)
    deciding = {run.seed: sign * run.value for run in best.seeds}
    if best.confirmed:
        return Runs({**known.fresh, **deciding}, known.searched)
    return Runs({}, {**known.searched, **deciding})


def lift(best: Best) -> Lift | None:
    """The answer against the baseline, seed by seed over those that both ran; None where there are none."""
    if best.baseline is None:
        return None
    metric = best.objective
    pairs = _shared(_by_seed(best.baseline.seeds), _by_seed(best.seeds))
    if not pairs:
        return None
    differences = [metric.sign * (theirs - ours) for theirs, ours in pairs]
    difference, reference = fmean(differences), abs(fmean(theirs for theirs, _ in pairs))
    width = metric.limits[1] - metric.limits[0]
    largest = max(abs(value) for pair in pairs for value in pair)
    bounds = interval(differences, (-width, width), of=largest)
    if best.noise is not None:
        spread = best.noise.deviation**2 / len(pairs)
        bounds = around(difference, spread, best.noise.freedom, differences, (-width, width), of=largest)
    if best.baseline.configuration == best.configuration and len(pairs) > 1:
        bounds = (0.0, 0.0)  # it is as good as itself, and here that needs no noise to be known
    return Lift(
        difference=difference,
        relative=share(difference, reference) if metric.from_zero else None,
        seeds=len(pairs),
        interval=bounds,
        sure=None if bounds is None else not bounds[0] <= 0.0 <= bounds[1] and not overlap(best) and not best.diverged,
    )


def chance(best: Best, candidates: Additive | None = None) -> float:
    """How far single runs over one seed may lie apart by chance: two standard deviations; 0 where nothing tells.

    Where the answer is the baseline itself, it is half of the interval of its value, which has the seed's part as well.
    The baseline may be far noisier than any of the `candidates`, so it is no more than what these show by themselves.
    """
    if best.noise is None:
        return (best.interval[1] - best.interval[0]) / 2 if best.interval else 0.0
    found = 2.0 * best.noise.deviation
    if candidates is None or candidates.residual[1] < LEAST:
        return found
    spread, freedom = candidates.residual
    return min(found, quantile(freedom) * math.sqrt(2.0 * spread)) or found


def share(part: float, of: float) -> float | None:
    """A part relative to the size of something; None where that is zero, or next to it."""
    found = part / abs(of) if of else math.inf
    return found if math.isfinite(found) else None


def overlap(best: Best) -> bool:
    """Whether the intervals of the answer and of the baseline have a value in common."""
    ours, theirs = best.interval, best.baseline.interval if best.baseline else None
    return ours is not None and theirs is not None and ours[0] <= theirs[1] and theirs[0] <= ours[1]


def _by_seed(seeds: Iterable[SeedValue]) -> dict[int, float]:
    return {run.seed: run.value for run in seeds}
