"""What is run again over fresh seeds before the answer is given, and whom next: whoever may still change it.

Every candidate runs over the first fresh seed. From then on seeds are bought one at a time, for the best so far and for
those that may yet turn out better, until what is expected to be lost by stopping is small beside the noise; then for
the best and the baseline, as long as little is known of how much better it is. All run over the same seeds, in the same
order, so that they are compared seed by seed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.special import gammaln, stdtr

from lrtune.analysis.additive import OF_SEARCH, Values, additive, exploded, moderated, noise
from lrtune.analysis.answer import LEAST, around
from lrtune.search.candidates import FIRST, candidates, expected_ends
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Proposal, Trial, TrialState

ENOUGH = 0.1  # of the noise: an expected loss below it is not worth another run
WORTH_ONE = 0.2  # of the noise: the same for a first run, of somebody of whom only the search has said something
WIDE = 1.0  # of how much better the best is than the baseline: a wider interval of that is worth another seed
SOME = 5.0  # degrees of freedom of the noise at least: it is not as unknown as few runs alone leave it


def confirming(spec: AdmittedJob, history: Sequence[Trial], *, steps: int) -> Proposal | None:
    """The next run over a fresh seed; None where there is none to buy, or those under way are to be waited for."""
    if not spec.confirm.runs:
        return None
    ends = expected_ends(spec, history, steps=steps)
    chosen = candidates(spec, history, steps=steps, ends=ends)
    again = [trial for trial in history if trial.role == "confirm" and trial.horizon == steps]
    runs = [[t for t in again if t.configuration == first.configuration] for first in chosen]
    broken = [sum(t.state is TrialState.DIVERGED for t in some) for some in runs]
    answers = [spec.allows(first.configuration) for first in chosen]
    fewest = min(count for count, may in zip(broken, answers, strict=True) if may)
    held = [i for i in range(len(chosen)) if broken[i] <= fewest]
    asked = [len({t.seed for t in some}) for some in runs]
    place = next_to_run(
        [_scores(spec, (t for t in runs[i] if t.completed(steps))) for i in held],
        [asked[i] for i in held],
        spec.confirm.seeds,
        baseline=next((k for k, i in enumerate(held) if chosen[i].role == "baseline"), None),
        searched={k: score for k, i in enumerate(held) for score in _scores(spec, [chosen[i]]).values()},
        expected=[ends[chosen[i].configuration] for i in held],
        outside=not all(answers),
        most=spec.confirm.runs - sum(asked[i] for i in range(len(chosen)) if i not in held),
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


def next_to_run(
    fresh: Sequence[Values],
    bought: Sequence[int],
    seeds: int,
    *,
    baseline: int | None,
    searched: Mapping[int, float],
    expected: Sequence[float] = (),
    outside: bool = False,
    most: float = math.inf,
) -> int | None:
    """Which of n candidates to run over its next fresh seed; None where that is nobody, or has to wait.

    `fresh`, (n,), are their scores so far by seed, lower being better; `bought`, (n,), counts the seeds that were asked
    for, of which `seeds` are the most, and `most` in all. `baseline` is the candidate to compare with, and no answer
    itself where it lies `outside` the job's space. `searched` are their scores over the search's own seed: they say
    something of the noise, but nothing of who is best, because all but the baseline's were selected for being low.
    `expected`, (n,) or nothing, are what was expected before; whoever may turn out to be the best by that is run once.
    """
    if not seeds or sum(bought) >= most:
        return None
    untried = [i for i, count in enumerate(bought) if not count]
    if sure := [i for i in untried if i < FIRST or i == baseline or not expected]:
        return sure[0]
    once = {
        i: [*values.values(), *([searched[i]] if i in searched else [])] for i, values in enumerate(fresh) if values
    }
    known = [i for i, values in once.items() if not exploded(values)]
    baseline = baseline if baseline in known else None
    fit = additive([fresh[i] for i in known])
    answers = [place for place, i in enumerate(known) if not (outside and i == baseline)]
    if not answers or fit is None:
        return next(iter([*untried, *(i for i in once if bought[i] < min(LEAST, seeds))]), None)
    alike = [i for i in known if i != baseline]
    common = _noise(fresh, searched, alike) or fit.residual
    if untried and (first := _untried(fresh, untried, alike, expected, common)) is not None:
        return first
    best = min(answers, key=lambda place: fit.parts[place])
    wanted = [known[best], *([] if baseline is None else [baseline])]
    if short := [i for i in wanted if bought[i] < min(LEAST, seeds) and fresh[i]]:
        return short[0]
    pairs = {i: _against(baseline, i, fresh, searched, common) for i in known}
    lead = known[best]

    def varies(other: int) -> tuple[float, float]:
        pair = pairs[lead] if other == baseline else pairs[other] if lead == baseline else None
        return (pair.variance / 2, pair.free) if pair else common

    losses = {
        known[place]: expected_loss(*fit.difference(place, best), *varies(known[place]))
        for place in answers
        if place != best and bought[known[place]] < seeds
    }
    open_ = {i: loss for i, loss in losses.items() if loss > ENOUGH * common[0] ** 0.5}
    rivals = [*sorted(open_, key=lambda i: -open_[i]), *([lead] if open_ and bought[lead] < seeds else [])]
    if not open_ and (pair := pairs[lead]) and pair.wide:
        rivals = [i for i in wanted if bought[i] < seeds]
    return min(rivals, key=lambda i: bought[i], default=None)


def _untried(
    fresh: Sequence[Values],
    untried: Sequence[int],
    known: Sequence[int],
    expected: Sequence[float],
    common: tuple[float, float],
) -> int | None:
    """The first of those that have not run over a fresh seed that may be better than the best of those that have."""
    untried = [i for i in untried if not exploded([expected[i]])]
    rows = [{OF_SEARCH: expected[i], **fresh[i]} for i in (*known, *untried)]
    if not common[1] or (fit := additive(rows)) is None:
        return next(iter(untried), None)
    best = min(range(len(known)), key=lambda place: fit.parts[place])
    for place, i in enumerate(untried, start=len(known)):
        if expected_loss(*fit.difference(place, best), *common) > WORTH_ONE * common[0] ** 0.5:
            return i
    return None


@dataclass(frozen=True, slots=True)
class _Pair:
    """How much better a candidate is than the baseline, by seed, and how much one such difference varies."""

    better: Sequence[float]
    variance: float
    free: float

    @property
    def wide(self) -> bool:
        """Whether its interval is wider than it is large; of differences that are all the same there is none."""
        if len(self.better) < LEAST:
            return False
        mean = fmean(self.better)
        ends = around(mean, self.variance / len(self.better), self.free, self.better)
        return ends is not None and ends[1] - ends[0] > WIDE * abs(mean)


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
