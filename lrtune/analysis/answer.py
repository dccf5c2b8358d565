"""Which configuration is the answer, with what certainty: a pure function of a job's trials.

One lucky seed is not an answer, so fresh seeds decide as soon as there are any, those that diverged first; the runs that found a configuration are
then left out of its mean, because they were selected for being low.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, variance

from lrtune.analysis.additive import Additive, Values, additive, exploded, moderated, noise
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Baseline, Best, Noise, Role, RunId, SeedValue, Trial, TrialState

ROUNDING = 1e-13  # of the largest value: a narrower interval is what rounding makes of values that are all the same
LEAST = 2  # fresh seeds by which a configuration can be the answer
# The 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal distribution's.
T_975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def interval(
    values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf), *, of: float = 0.0
) -> tuple[float, float] | None:
    """The 95 % confidence interval of a mean (Student's t), inside the metric's range; None for fewer than two values,
    where one has exploded, or where they are all the same: see `around`.

    It is cut off at the range. The mean that it is to hold lies inside, so what is cut off could not hold it, and the
    coverage stays that of the t interval (Mandelkern 2002, "Setting confidence intervals for bounded parameters",
    Statistical Science 17(2), 149-172). An interval on a log or logit scale would be one of another mean, has no value
    at 0 and 1, and grows beyond all measure with two or three seeds. Limits that a value contradicts are none.
    """
    if len(values) < 2 or exploded(values):
        return None
    return around(fmean(values), variance(values) / len(values), len(values) - 1, values, limits, of=of)


def pooled_interval(
    values: Sequence[float], chance: Additive | None, limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float] | None:
    """The same, with the spread over seeds as all candidates tell it that were confirmed, where they do."""
    if chance is None or len(values) < 2 or exploded(values) or chance.total[1] < len(values) - 1:
        return interval(values, limits)
    return around(fmean(values), chance.total[0] / len(values), chance.total[1], values, limits)


def apart_interval(
    values: Sequence[float],
    searched: Sequence[float],
    chance: Additive | None,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | None:
    """The same for the baseline, which may be far noisier than the candidates: its own spread, that of its run in the
    search with it, because nothing has selected that.
    """
    if len(values) < 2 or exploded([*values, *searched]):
        return None
    spread, freedom = moderated([*values, *searched], chance.total if chance else None)
    return around(fmean(values), spread / len(values), freedom, values, limits)


def around(
    mean: float,
    spread: float,
    freedom: float,
    values: Sequence[float],
    limits: tuple[float, float] = (-math.inf, math.inf),
    *,
    of: float = 0.0,
) -> tuple[float, float] | None:
    """Student's interval around a mean that has the variance `spread`, cut off at limits that no value contradicts.

    None where the variance is zero. Two or three runs that come to the same value do not tell that others would: an
    accuracy counts few examples or has reached its end, or a script uses no seed. An interval without width would say
    that there is no doubt, and how wide it should be nothing tells. Differences are rounded as the values are that they
    are `of`: 91.3 - 91.2 and 93.7 - 93.6 are not quite the same.
    """
    half = quantile(freedom) * math.sqrt(spread)
    if half <= ROUNDING * max(of, *map(abs, values)):
        return None
    low, high = limits if limits[0] <= min(values) and max(values) <= limits[1] else (-math.inf, math.inf)
    return min(mean, max(low, mean - half)), max(mean, min(high, mean + half))


def quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, its logarithm between whole degrees of freedom linear in their inverse."""
    freedom = max(freedom, 1.0)
    below = math.floor(freedom)
    if below >= len(T_975):
        return T_975[-1] if freedom == len(T_975) else 1.96
    share = (1 / below - 1 / freedom) / (1 / below - 1 / (below + 1))
    return math.exp((1 - share) * math.log(T_975[below - 1]) + share * math.log(T_975[below]))


def best(spec: AdmittedJob, trials: Iterable[Trial], *, steps: int, full_runs: float) -> Best | None:
    """The answer these trials give, or None while none is complete over `steps`; `full_runs` is the cost so far."""
    metric, trials = spec.metric, list(trials)
    once: dict[tuple[RunId, Role], Trial] = {}  # imported jobs may hold a run twice: it says no more than once
    for trial in trials:
        if trial.completed(steps):
            once.setdefault((trial.run, trial.role), trial)
    complete = list(once.values())
    asked = [t for t in complete if t.role == "search" or spec.allows(t.configuration)]
    if not asked:
        return None
    broken = _broken(trials, steps)
    runs = _chosen(_decisive(asked, broken, spec.confirm.seeds), metric.sign)
    reference = next((t.configuration for t in trials if t.role == "baseline"), None)
    chosen, confirmed = runs[0].configuration, runs[0].role == "confirm"
    chance = noise_of_candidates(complete, but=reference) if confirmed else None
    baseline = None
    if reference:
        diverged = broken[reference] + any(t.role == "baseline" and t.state is TrialState.DIVERGED for t in trials)
        baseline = _baseline(spec, reference, complete, chance, confirmed=confirmed, diverged=diverged)
    bounds = pooled_interval([run.value for run in _seeds(runs)], chance, metric.limits)
    return Best(
        configuration=chosen,
        metric=metric.name,
        goal=metric.goal,
        range=metric.range,
        value=_mean(runs),
        seeds=_seeds(runs),
        interval=baseline.interval if baseline and chosen == reference else bounds,
        noise=_noise_of_lift(complete, chosen, reference, chance),
        baseline=baseline,
        full_runs=full_runs,
        trial=min(t.number for t in asked if t.configuration == chosen),
        steps=steps,
        confirmed=confirmed,
        diverged=broken[chosen],
    )


def grouped(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials of the same configuration together, in order of their first."""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        groups.setdefault(trial.configuration.model_dump_json(), []).append(trial)
    return list(groups.values())


def _broken(trials: Iterable[Trial], steps: int) -> Counter[Configuration]:
    """How many fresh seeds of each configuration diverged."""
    fresh = (t for t in trials if t.role == "confirm" and t.horizon == steps)
    return Counter(run.configuration for run in {t.run for t in fresh if t.state is TrialState.DIVERGED})


def _decisive(trials: Sequence[Trial], broken: Counter[Configuration], seeds: int) -> list[list[Trial]]:
    """The runs that decide: of configurations over two fresh seeds or more, if a job has as many, else every single run.

    Seeds are bought one at a time for whoever may still win (`lrtune/search/confirm.py`), so that one has fewer than
    another says that it was given up.
    Who diverged on fewer fresh seeds comes before any value: a mean over those that held says nothing of the others.
    """
    fresh = grouped(t for t in trials if t.role == "confirm")
    groups = [runs for runs in fresh if len(runs) + broken[runs[0].configuration] >= min(LEAST, seeds)]
    groups = groups or [[t] for t in trials if t.role != "confirm"] or [[t] for t in trials]
    fewest = min(broken[runs[0].configuration] for runs in groups)
    return [runs for runs in groups if broken[runs[0].configuration] == fewest]


def _chosen(groups: Sequence[list[Trial]], sign: float) -> list[Trial]:
    """The best of the runs that decide: by what is left of their values once the seeds' parts are taken out."""
    values = [_by_seed(runs) for runs in groups]
    fit = additive(values) if groups[0][0].role == "confirm" else None
    parts = fit.parts if fit else [_mean(runs) for runs in groups]
    return groups[min(range(len(groups)), key=lambda place: (sign * parts[place], groups[place][0].number))]


def noise_of_candidates(complete: Iterable[Trial], *, but: Configuration | None) -> Additive | None:
    """What all confirmed candidates say together of seeds and noise; None where that is nothing.

    The baseline, `but`, says nothing of them: it is another kind of run, and often a far noisier one.
    """
    rows, searched = list[Values](), dict[int, float]()
    for runs in grouped(t for t in complete if t.configuration != but):
        if fresh := _by_seed([run for run in runs if run.role == "confirm"]):
            own = next((run.value for run in runs if run.role == "search"), None)
            if own is not None:
                searched[len(rows)] = own
            rows.append(fresh)
    return noise(rows, searched)


def _noise_of_lift(
    complete: Iterable[Trial], chosen: Configuration, reference: Configuration | None, chance: Additive | None
) -> Noise | None:
    """By how much the answer's difference to the baseline varies over the seeds that both ran, the search's among them.

    None before two fresh seeds tell it. What all candidates say of their own noise is little of the baseline's.
    """
    fresh, searched = list[float](), list[float]()
    for found in (fresh, searched):
        some = [t for t in complete if (t.role == "confirm") is (found is fresh)]
        ours, theirs = (_by_seed(t for t in some if t.configuration == one) for one in (chosen, reference))
        found += [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
    if chosen == reference or len(fresh) < LEAST or exploded([*fresh, *searched]):
        return None
    others = (2 * chance.residual[0], chance.residual[1]) if chance else None
    spread, freedom = moderated([*fresh, *searched], others)
    return Noise(deviation=math.sqrt(spread), freedom=freedom)


def _by_seed(runs: Iterable[Trial]) -> dict[int, float]:
    return {run.seed: run.value for run in runs if run.value is not None}


def _mean(runs: Sequence[Trial]) -> float:
    return fmean(run.value for run in _seeds(runs))


def _seeds(runs: Iterable[Trial]) -> list[SeedValue]:
    return [SeedValue(seed=run.seed, value=run.value) for run in runs if run.value is not None]


def _baseline(
    spec: AdmittedJob,
    reference: Configuration,
    complete: Sequence[Trial],
    chance: Additive | None,
    *,
    confirmed: bool,
    diverged: int,
) -> Baseline:
    """The baseline over the seeds that the answer's value is of, fresh ones or the search's, if it ran over such."""
    same = [t for t in complete if t.configuration == reference]
    fresh, searched = (_seeds(t for t in same if (t.role == "confirm") is which) for which in (True, False))
    runs = (fresh or searched) if confirmed else (searched or fresh)
    values, once = ([run.value for run in some] for some in (runs, searched if runs is fresh else []))
    return Baseline(
        configuration=reference,
        own=spec.baseline is not None,
        value=fmean(values) if values else None,
        seeds=runs,
        interval=apart_interval(values, once, chance, spec.metric.limits),
        diverged=diverged,
    )
