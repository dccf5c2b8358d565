"""Runs that have learned nothing: their values stand where an untrained network, or a trivial predictor, stands.

Nobody says what that value is: the class frequencies' cross entropy, the variance of the target. But it can be seen:
at their first reports runs of very different learning rates stand at one value, to a per mille. Runs that are no better
later on are not worth their end, and their differences, a third decimal, are no scale for anything.
"""

import math
from collections.abc import Sequence

import numpy as np

from lrtune.search.engine.features import embed
from lrtune.search.engine.types import Run

FIRST = 16  # runs by which the level is known: what comes later was chosen for being good
LEAST, SHARE = 3, 0.25  # of these that must have stood there: so many, and such a share
STILL = 0.001  # of the level, within which they must have stood
FACTOR = 8.0  # between the lowest and the highest of their mean rates
FACTOR_STILL = 4.0  # the same of runs that were seen to stand still there: that says more than to have passed by
PASSED = 0.002  # of the level, within which a run stands there
LEFT, STOOD = 1.0, 1.0  # beforehand so many runs have left the level, in so many e-folds of steps there
BETTER = 0.01  # of the level, by which a run must be better to have learned something


def level(runs: Sequence[Run]) -> float:
    """The value at which runs stand that learn nothing, lower being better; infinite where none is to be seen."""
    first = sorted((run for run in runs if run.reports), key=lambda run: run.born)[:FIRST]
    values = np.array([run.reports[0][1] for run in first])
    wanted, found = max(LEAST, SHARE * len(first)), (0, np.inf)
    for candidate in np.unique(values[np.isfinite(values)]):
        middle = candidate + STILL * abs(candidate)  # of the window that the candidate begins
        near = np.flatnonzero(abs(values - middle) <= STILL * abs(middle))
        if len(near) >= max(wanted, found[0] + 1) and _factor([first[place] for place in near]) >= FACTOR:
            found = len(near), float(middle)
    return found[1]


def standstill(runs: Sequence[Run]) -> float:
    """The lowest value at which runs stand still that learn nothing, at the level or below; infinite where none is.

    Untrained networks may begin above who guesses by class frequencies, and then learn that and nothing else. A good
    end is no such value, though runs stand still there too: it is better than what the best run began at.
    """
    begun = sorted((run for run in runs if run.reports), key=lambda run: run.born)
    began = [run.reports[0][1] for run in begun[:FIRST] if np.isfinite(run.reports[0][1])]
    best, known = min(began, default=np.inf), level(runs)
    still = [run for run in begun if _stands_still(run) and not _better(run.reports[-1][1], best)]
    values = np.array([run.reports[-1][1] for run in still])
    for candidate in np.unique(values[values < known]):
        middle = candidate + STILL * abs(candidate)  # of the window that the candidate begins
        near = [run for run, value in zip(still, values, strict=True) if abs(value - middle) <= STILL * abs(middle)]
        if len(near) >= LEAST and _factor(near, last=True) >= FACTOR_STILL:
            return float(middle)
    return known


def _stands_still(run: Run) -> bool:
    """Whether the last report of a run is what an earlier one was, after half of its steps at most."""
    step, value = run.reports[-1]
    before = [earlier for at, earlier in run.reports if 2 * at <= step]
    return bool(before) and abs(before[-1] - value) <= STILL * abs(value)


def _factor(runs: Sequence[Run], last: bool = False) -> float:
    """The highest mean rate of some runs over the lowest, each up to its first report, or its last."""
    progress = np.array([run.reports[-1 if last else 0][0] / run.horizon for run in runs])
    return float(np.exp(np.ptp(embed(np.array([run.curve for run in runs]), progress)[:, 0])))


def _better(value: float, than: float) -> bool:
    return value < than - BETTER * abs(than)


def learned(run: Run, nothing: float) -> bool:
    """Whether a run stands better than `nothing`, the level of those that learn nothing; one that diverged does not."""
    if not run.reports or not np.isfinite(run.reports[-1][1]):
        return False
    return nothing == np.inf or _better(run.reports[-1][1], nothing)


def moved(run: Run, nothing: float) -> bool:
    """Whether a run stands below all that stand at `nothing`, by however little."""
    return bool(run.reports) and run.reports[-1][1] < nothing - PASSED * abs(nothing)


def scale_setting(runs: Sequence[Run], nothing: float) -> list[Run]:
    """The runs that set the scale of a job: of those that learned nothing only one, the longest that stands still.

    Where none has learned anything that is all of them.
    """
    idle = [run for run in runs if run.reports and np.isfinite(run.reports[-1][1]) and not learned(run, nothing)]
    if not any(learned(run, nothing) for run in runs):
        return list(runs)
    one = max(
        idle, key=lambda run: (abs(run.reports[-1][1] - nothing) <= BETTER * abs(nothing), run.steps), default=None
    )
    left_out = {id(run) for run in idle if run is not one}
    return [run for run in runs if id(run) not in left_out]


def waking(runs: Sequence[Run], nothing: float) -> dict[int, float]:
    """The chance, by key, that a run which stands at the level of nothing leaves it before its end.

    The longer one has stood the longer it will, so time is counted in e-folds: how many runs left the level, for each
    e-fold of steps that runs stood there, is what this job shows. To that power s / T of those are left after T steps
    that stood for s. Runs that stand elsewhere are left out.
    """
    left, stood, there_still = LEFT, STOOD, list[Run]()
    for run in runs:
        there = [step for step, value in run.reports if abs(value - nothing) <= PASSED * abs(nothing)]
        if not there:
            continue
        below = (step for step, value in run.reports if step > there[0] and value < nothing - PASSED * abs(nothing))
        gone = next(below, None)
        left, stood = left + (gone is not None), stood + math.log((gone or there[-1]) / there[0])
        if gone is None and there[-1] == run.steps:
            there_still.append(run)
    return {run.key: 1 - (run.steps / run.horizon) ** (left / stood) for run in there_still}
