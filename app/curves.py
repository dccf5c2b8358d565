"""Learning-rate curves as points to draw: every step of a short run, evenly thinned steps of a long one."""

from lrtune.analysis.prefixes import Course
from lrtune.schedules import Curve
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import Metric
from lrtune.wire.results import Trial


def thinned(steps: int, points: int) -> list[int]:
    """At most `points` steps of a run, evenly spaced, the first and the last among them."""
    if steps <= points:
        return list(range(steps))
    return [round(place * (steps - 1) / (points - 1)) for place in range(points)]


def by_step(curve: Curve, peak: float, *, steps: int, points: int) -> list[tuple[int, float]]:
    """(step, learning rate) of a run of `steps`."""
    factor = curve.over(steps)
    return [(step, peak * factor(step)) for step in thinned(steps, points)]


def by_progress(configuration: Configuration, steps: int, points: int) -> list[tuple[float, float]]:
    """(progress, learning rate) of a configuration."""
    found = by_step(configuration.curve, configuration.learning_rate, steps=steps, points=points)
    return [(step / steps, rate) for step, rate in found]


def of_trial(trial: Trial, metric: Metric, points: int) -> list[tuple[int, float]]:
    """(step, learning rate) of a trial, as its reports leave it."""
    course = Course.of(trial, metric)
    return [(step, course.rate(step)) for step in thinned(trial.horizon, points)]
