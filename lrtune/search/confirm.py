"""What is run again over fresh seeds before the answer is given, and whom next: whoever may still change it.

Every candidate runs over the first fresh seed. From then on seeds are bought one at a time, for the best so far and for
those that may yet turn out better, until what is expected to be lost by stopping is small beside the noise; then for
the best and the baseline, as long as little is known of how much better it is. All run over the same seeds, in the same
order, so that they are compared seed by seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from scipy.special import gammaln, stdtr

from lrtune.analysis.additive import Values, additive, exploded, moderated, noise
from lrtune.analysis.answer import LEAST, around, grouped
from lrtune.analysis.prefixes import Course, common, same_but_for_rates
from lrtune.search.curve.encode import rates
from lrtune.search.engine.features import embed
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Trial, TrialState

ENOUGH = 0.1  # of the noise: an expected loss below it is not worth another run
WIDE = 1.0  # of how much better the best is than the baseline: a wider interval of that is worth another seed
SOME = 5.0  # degrees of freedom of the noise at least: it is not as unknown as few runs alone leave it
REGION = 0.4  # in every feature of the curve: configurations that are closer are of one region
CLOSE = 0.1  # of what the best whole run is better by than the median one: values that are closer are close


def confirming(spec: AdmittedJob, history: Sequence[Trial], *, steps: int) -> Proposal | None:
    """The next run over a fresh seed; None where there is none to buy, or those under way are to be waited for."""
    chosen = candidates(spec, [trial for trial in history if trial.role != "confirm"], steps=steps)
    again = [trial for trial in history if trial.role == "confirm" and trial.horizon == steps]
    runs = [[t for t in again if t.configuration == first.configuration] for first in chosen]
    broken = [sum(t.state is TrialState.DIVERGED for t in some) for some in runs]
    held = [i for i in range(len(chosen)) if broken[i] == min(broken)]
    place = next_to_run(
        [_scores(spec, (t for t in runs[i] if t.completed(steps))) for i in held],
        [len({t.seed for t in runs[i]}) for i in held],
        spec.confirm.seeds,
        baseline=next((k for k, i in enumerate(held) if chosen[i].role == "baseline"), None),
        searched={k: score for k, i in enumerate(held) for score in _scores(spec, [chosen[i]]).values()},
    )
    if place is None:
        return None
    first, taken = chosen[held[place]], {t.seed for t in runs[held[place]]}
    number = next(n for n in range(1, len(taken) + 2) if spec.search.seed + n not in taken)
    return Proposal(
        configuration=first.configuration,
        role="confirm",
        seed=spec.search.seed + number,
        horizon=steps,
        reason=f"fresh seed {number} of {spec.confirm.seeds} for trial {first.number}",
    )


def _scores(spec: AdmittedJob, trials: Iterable[Trial]) -> dict[int, float]:
    """Values by seed, lower being better."""
    return {trial.seed: spec.metric.sign * trial.value for trial in trials if trial.value is not None}


def candidates(spec: AdmittedJob, past: Sequence[Trial], *, steps: int) -> list[Trial]:
    """A trial of each configuration to confirm: the best few, and the baseline to compare them with.

    The best few have different curves, and where their values are close they are of different regions.
    """

    def score(runs: Sequence[Trial]) -> float:
        return spec.metric.sign * fmean(run.value for run in runs if run.value is not None)

    groups = sorted(grouped(t for t in past if t.completed(steps)), key=lambda runs: (score(runs), runs[0].number))
    ranked = [(score(runs), runs[0]) for runs in groups]
    own = [(value, first) for value, first in ranked if spec.allows(first.configuration)]
    close = CLOSE * (median(value for value, _ in own) - own[0][0]) if own else 0.0
    chosen: list[Trial] = []
    while own and len(chosen) < spec.confirm.top:
        own = [
            (value, t) for value, t in own if not any(_equal(t.configuration, c.configuration, steps) for c in chosen)
        ]
        crowded = [any(_near(t.configuration, c.configuration, steps) for c in chosen) for _, t in own]
        best = min(range(len(own)), key=lambda i: own[i][0] + close * crowded[i], default=None)
        if best is None:
            break
        chosen.append(own.pop(best)[1])
    known = {first.configuration for first in chosen}
    baseline = [first for _, first in ranked if first.role == "baseline" and first.configuration not in known]
    return chosen + baseline if chosen else []


def _equal(one: Configuration, other: Configuration, steps: int) -> bool:
    """Whether two configurations train alike at every step."""
    return same_but_for_rates(one, other) and common(Course(one, steps), Course(other, steps)) >= steps


def _near(one: Configuration, other: Configuration, steps: int) -> bool:
    """Whether two configurations are of one region: equal but for their schedules, of curves that are alike."""
    if one.optimizer != other.optimizer or (one.clip_norm, one.clip_value) != (other.clip_norm, other.clip_value):
        return False
    features = embed(np.array([rates(one, steps), rates(other, steps)]), np.ones(2))
    return bool((abs(features[0] - features[1]) <= REGION).all())


def next_to_run(
    fresh: Sequence[Values], bought: Sequence[int], seeds: int, *, baseline: int | None, searched: Mapping[int, float]
) -> int | None:
    """Which of n candidates to run over its next fresh seed; None where that is nobody, or has to wait.

    `fresh`, (n,), are their scores so far by seed, lower being better; `bought`, (n,), counts the seeds that were asked
    for, of which `seeds` are the most. `baseline` is the candidate to compare with. `searched` are their scores over
    the search's own seed: they say something of the noise, but nothing of who is best, because all but the baseline's
    were selected for being low.
    """
    if 0 in bought:
        return list(bought).index(0) if seeds else None
    known = [i for i, values in enumerate(fresh) if values and not exploded([*values.values(), searched.get(i, 0.0)])]
    baseline = baseline if baseline in known else None
    fit = additive([fresh[i] for i in known])
    if not known or fit is None:
        return None
    best = min(range(len(known)), key=lambda place: fit.parts[place])
    wanted = [known[best], *([] if baseline is None else [baseline])]
    if short := [i for i in wanted if bought[i] < min(LEAST, seeds) and fresh[i]]:
        return short[0]
    common = _noise(fresh, searched, [i for i in known if i != baseline]) or fit.residual
    pairs = {i: _against(baseline, i, fresh, searched, common) for i in known}
    lead = known[best]

    def varies(other: int) -> tuple[float, float]:
        pair = pairs[lead] if other == baseline else pairs[other] if lead == baseline else None
        return (pair.variance / 2, pair.free) if pair else common

    losses = {
        i: expected_loss(*fit.difference(place, best), *varies(i))
        for place, i in enumerate(known)
        if place != best and bought[i] < seeds
    }
    open_ = {i: loss for i, loss in losses.items() if loss > ENOUGH * common[0] ** 0.5}
    rivals = [*sorted(open_, key=lambda i: -open_[i]), *([lead] if open_ and bought[lead] < seeds else [])]
    if not open_ and (pair := pairs[lead]) and pair.wide:
        rivals = [i for i in wanted if bought[i] < seeds]
    return min(rivals, key=lambda i: bought[i], default=None)


@dataclass(frozen=True, slots=True)
class _Pair:
    """How much better a candidate is than the baseline, by seed, and how much one such difference varies."""

    better: Sequence[float]
    variance: float
    free: float

    @property
    def wide(self) -> bool:
        """Whether its interval is wider than it is large, where there is one."""
        if len(self.better) < LEAST:
            return False
        mean = fmean(self.better)
        low, high = around(mean, self.variance / len(self.better), self.free, self.better)
        return high - low > WIDE * abs(mean)


def _against(
    baseline: int | None,
    other: int,
    fresh: Sequence[Values],
    searched: Mapping[int, float],
    common: tuple[float, float],
) -> _Pair | None:
    """A candidate beside the baseline, over the fresh seeds that both ran and, for the variance, the search's."""
    if baseline is None or other == baseline:
        return None
    ours, theirs = fresh[other], fresh[baseline]
    better = [theirs[seed] - ours[seed] for seed in ours if seed in theirs]
    once = [searched[baseline] - searched[other]] if baseline in searched and other in searched else []
    if len(better) + len(once) < LEAST:
        return None
    return _Pair(better, *moderated([*better, *once], (2 * common[0], common[1])))


def _noise(fresh: Sequence[Values], searched: Mapping[int, float], alike: Sequence[int]) -> tuple[float, float] | None:
    """The noise of candidates that are alike, with its degrees of freedom; None where nothing tells it."""
    found = noise([fresh[i] for i in alike], {k: searched[i] for k, i in enumerate(alike) if i in searched})
    return found.residual if found and found.residual[1] else None


def expected_loss(behind: float, factor: float, variance: float, free: float) -> float:
    """How much is lost on average by not taking another, which is `behind` by so much: Student's t, clipped at zero.

    `factor` times `variance`, the noise's, is the variance of that difference; `free` are its degrees of freedom.
    """
    size, free = (factor * variance) ** 0.5, max(free, SOME)
    if size <= 0.0:
        return max(-behind, 0.0)
    z = behind / size
    constant = gammaln((free + 1) / 2) - gammaln(free / 2) - 0.5 * np.log(free * np.pi)
    density = np.exp(constant - (free + 1) / 2 * np.log1p(z * z / free))
    return float(size * ((free + z * z) / (free - 1) * density - z * stdtr(free, -z)))
