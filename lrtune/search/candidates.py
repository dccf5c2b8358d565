"""Which configurations are confirmed: the best few by what the model expects of them over a seed that nobody has run.

A search trains with one seed, so a run's value is its configuration's and luck, and the best few by value are those
that had most of it. The model takes that out as far as neighbours tell it; what it cannot see is luck that several runs
share, because they were one run up to where they part.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

import numpy as np

from lrtune.analysis.answer import grouped
from lrtune.analysis.prefixes import Course, common, same_but_for_rates
from lrtune.search.curve.encode import rates
from lrtune.search.curve.sampler import over_fresh_seeds
from lrtune.search.engine.features import embed
from lrtune.search.studies.study import searched, telling
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob
from lrtune.wire.results import Trial

REGION = 0.4  # in every feature of the curve: configurations that are closer are of one region
CLOSE = 0.1  # of what the best whole run is better by than the median one: values that are closer are close
LUCK = 3.0  # of the median by which runs differ from what is expected over fresh seeds: what luck may be
AMONG = 20  # of the best by their runs: so many are looked at for a job's answer (`lrtune/store/progress.py`)
APART = 0.5  # of a run: who has less in common with a candidate is no other form of it
FIRST = 3  # candidates that run over a fresh seed whatever is expected of them
Ends = Mapping[Configuration, float]  # scores, lower being better


def expected_ends(spec: AdmittedJob, history: Sequence[Trial], *, steps: int) -> dict[Configuration, float]:
    """What each complete configuration is expected to score over a fresh seed.

    It is what its runs did where no model can be made, and where the model does not see what the better half of them
    differ by: where some values are larger by orders of magnitude, all others are one to it.
    """
    past = searched(history)
    found = {runs[0].configuration: _score(spec, runs) for runs in grouped(t for t in past if t.completed(steps))}
    ends = over_fresh_seeds(spec, telling(spec, past), found, steps=steps) if len(found) > 1 else {}
    expected = found | {one: spec.metric.sign * value for one, value in ends.items()}
    good = sorted(found, key=found.__getitem__)[: (len(found) + 1) // 2]
    off = median(abs(found[one] - expected[one]) for one in good) if good else 0.0
    return expected if good and off <= found[good[-1]] - found[good[0]] else found


def candidates(spec: AdmittedJob, history: Sequence[Trial], *, steps: int, ends: Ends | None = None) -> list[Trial]:
    """A trial of each configuration to confirm, the best first, and the baseline to compare them with.

    The best few have different curves. Where values are close they are of different regions, and where they differ by
    less than luck they do not share it. The best by its run is one of the first three, should the model be wrong, but
    not the first for it. `ends` are those of `expected_ends`.
    """
    ends = expected_ends(spec, history, steps=steps) if ends is None else ends
    groups = grouped(t for t in searched(history) if t.completed(steps))
    own = [(ends[runs[0].configuration], runs) for runs in groups if spec.allows(runs[0].configuration)]
    close = CLOSE * (median(value for value, _ in own) - min(value for value, _ in own)) if own else 0.0
    luck = LUCK * median(abs(_score(spec, runs) - value) for value, runs in own) if own else 0.0
    own = sorted(own, key=lambda one: _score(spec, one[1]))[:AMONG]
    leader = own[0][1][0] if own else None
    left = [(value, runs[0]) for value, runs in sorted(own, key=lambda one: (one[0], one[1][0].number))]
    firsts: list[Trial] = []
    while len(firsts) < spec.confirm.top:
        chosen = [first.configuration for first in firsts]
        left = [(value, t) for value, t in left if not any(_equal(t.configuration, one, steps) for one in chosen)]
        if not left:
            break
        crowded = [any(_near(t.configuration, one, steps) for one in chosen) for _, t in left]
        shared = [max((_shared(t.configuration, one, steps) for one in chosen), default=0.0) for _, t in left]
        best = min(range(len(left)), key=lambda i: left[i][0] + close * crowded[i] + luck * shared[i])
        if firsts and len(firsts) == min(spec.confirm.top, FIRST) - 1:
            best = next((i for i, (_, t) in enumerate(left) if t is leader and shared[i] < APART), best)
        firsts.append(left.pop(best)[1])
    known = {first.configuration for first in firsts}
    baseline = [runs[0] for runs in groups if runs[0].role == "baseline" and runs[0].configuration not in known]
    return firsts + baseline if firsts else []


def _score(spec: AdmittedJob, runs: Sequence[Trial]) -> float:
    return spec.metric.sign * fmean(run.value for run in runs if run.value is not None)


def _equal(one: Configuration, other: Configuration, steps: int) -> bool:
    """Whether two configurations train alike at every step."""
    return _shared(one, other, steps) >= 1.0


def _shared(one: Configuration, other: Configuration, steps: int) -> float:
    """The share of a run that two configurations train alike, from the beginning on."""
    return common(Course(one, steps), Course(other, steps)) / steps if same_but_for_rates(one, other) else 0.0


def _near(one: Configuration, other: Configuration, steps: int) -> bool:
    """Whether two configurations are of one region: equal but for their schedules, of curves that are alike."""
    if one.optimizer != other.optimizer or (one.clip_norm, one.clip_value) != (other.clip_norm, other.clip_value):
        return False
    features = embed(np.array([rates(one, steps), rates(other, steps)]), np.ones(2))
    return bool((abs(features[0] - features[1]) <= REGION).all())
