"""Learning-rate curves as points to draw: every step of a short run, evenly thinned steps of a long one."""

from collections.abc import Callable
from itertools import pairwise

from lrtune.analysis.prefixes import Course
from lrtune.schedules import Curve
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric
from lrtune.wire.results import Trial

DROP, MOST = 0.02, 0.8  # of the peak: a change between two points to be looked into; of it, what makes it a drop


def thinned(steps: int, points: int) -> list[int]:
    """At most `points` steps of a run, evenly spaced, the first and the last among them."""
    if steps <= points:
        return list(range(steps))
    return [round(place * (steps - 1) / (points - 1)) for place in range(points)]


def by_step(curve: Curve, peak: float, *, steps: int, points: int) -> list[tuple[int, float]]:
    """(step, learning rate) of a run of `steps`."""
    factor = curve.over(steps)
    return [(step, peak * factor(step)) for step in thinned(steps, points)]


def sharp(curve: Curve, peak: float, *, steps: int, points: int) -> list[tuple[int, float]]:
    """The same, and of every drop or jump between two of these the steps before and after it, so that it is one."""
    factor = curve.over(steps)
    wanted = {*thinned(steps, points), *(step for step in curve.breakpoints(steps)[: 4 * points])}
    found = {step: factor(step) for step in sorted(wanted)}
    for low, high in pairwise(list(found)):
        if abs(found[high] - found[low]) > DROP:
            found |= _ends_of_drop(factor, (low, found[low]), (high, found[high]))
    return [(step, peak * found[step]) for step in sorted(found)]


def _ends_of_drop(factor: Callable[[int], float], low: tuple[int, float], high: tuple[int, float]) -> dict[int, float]:
    """Two steps beside each other between which most of a change lies; nothing where it is spread out."""
    while high[0] - low[0] > 1:
        step = (low[0] + high[0]) // 2
        middle, change = (step, factor(step)), abs(high[1] - low[1])
        if abs(middle[1] - low[1]) > MOST * change:
            high = middle
        elif abs(high[1] - middle[1]) > MOST * change:
            low = middle
        else:
            return {}
    return dict([low, high])


def by_progress(configuration: Configuration, steps: int, points: int) -> list[tuple[float, float]]:
    """(progress, learning rate) of a configuration."""
    found = by_step(configuration.curve, configuration.learning_rate, steps=steps, points=points)
    return [(step / steps, rate) for step, rate in found]


def of_trial(trial: Trial, metric: Metric, points: int) -> list[tuple[int, float]]:
    """(step, learning rate) of a trial, as its reports leave it."""
    course = Course.of(trial, metric)
    return [(step, course.rate(step)) for step in thinned(trial.horizon, points)]
