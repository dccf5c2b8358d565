"""The answer of a job as its page draws it: the curve of the rate, large, and how sure it is, seed by seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app import curves
from lrtune.analysis.words import label, rate
from lrtune.schedules import Schedule
from lrtune.store import trials
from lrtune.wire.results import Best, SeedValue

POINTS = 160  # of a curve
WIDE, HIGH = 1000, 300  # units of the picture, which is stretched to its place


@dataclass(frozen=True)
class Course:
    """The learning rate over the run as paths of SVG, the baseline's beside it where it is another; `top` is a rate."""

    own: str
    baseline: str | None
    top: float
    steps: int
    words: str


@dataclass(frozen=True)
class Seeds:
    """The values of one configuration as shares of a common axis in percent: each seed, the mean, the interval."""

    name: str
    dots: Sequence[float]
    mean: float
    interval: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class Picture:
    """What is drawn of an answer; `seeds` are few, and `ends` those of their axis."""

    course: Course
    seeds: Sequence[Seeds]
    ends: tuple[float, float]


def picture(tx: Session, job_id: str, best: Best) -> Picture:
    """What is drawn of this answer."""
    rows, ends = seeds(best)
    return Picture(_course(tx, job_id, best), rows, ends)


def _course(tx: Session, job_id: str, best: Best) -> Course:
    own, steps = _points(tx, job_id, best), best.steps
    theirs: list[tuple[int, float]] = []
    if best.baseline is not None and best.baseline.configuration != best.configuration:
        chosen = best.baseline.configuration
        theirs = curves.sharp(chosen.curve, chosen.learning_rate, steps=steps, points=POINTS)
    top = max(value for _, value in own) or best.configuration.learning_rate
    first, last = rate(own[0][1]), rate(own[-1][1])
    return Course(
        own=_path(own, steps, top),
        # Rates of two optimizers do not compare, and one far higher would press the answer's own flat.
        baseline=_path(theirs, steps, top) if _alike(best) and theirs else None,
        top=top,
        steps=steps,
        words=f"from {first} at the first of {steps:,} steps, at most {rate(top)}, to {last} at the last",
    )


def _alike(best: Best) -> bool:
    """Whether the baseline's rates can be drawn beside the answer's."""
    if best.baseline is None or best.baseline.configuration.kind[0] != best.configuration.kind[0]:
        return False
    return best.baseline.configuration.learning_rate <= 1.5 * best.configuration.learning_rate


def _points(tx: Session, job_id: str, best: Best) -> list[tuple[int, float]]:
    """(step, rate) of the answer; a schedule that looks at the loss is drawn as the answer's run left it."""
    chosen = best.configuration
    if type(chosen.schedule).after is not Schedule.after:
        return curves.of_trial(trials.get(tx, job_id, best.trial), best.objective, POINTS)
    return curves.sharp(chosen.curve, chosen.learning_rate, steps=best.steps, points=POINTS)


def _path(points: Iterable[tuple[int, float]], steps: int, top: float) -> str:
    """A path over the picture; what is above the top is cut off."""
    places = (
        (WIDE * step / max(steps - 1, 1), HIGH * (1 - max(-0.1, min(value / top, 1.1)))) for step, value in points
    )
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def seeds(best: Best) -> tuple[list[Seeds], tuple[float, float]]:
    """The answer and the baseline on one axis; nothing where there is but one value to show."""
    rows = [("the answer", best.seeds, best.value, best.interval)]
    if (other := best.baseline) is not None and other.value is not None and other.configuration != best.configuration:
        rows.append((label(other), other.seeds, other.value, other.interval))
    shown = [one.value for _, seeds, *_ in rows for one in seeds] + [mean for _, _, mean, _ in rows]
    if len(set(shown)) < 2:
        return [], (0.0, 0.0)
    span = max(shown) - min(shown)
    room, ends = 0.06 * span, [end for *_, interval in rows for end in interval or ()]
    # Intervals are seen whole, unless one that knows little (of two seeds) would press the seeds together.
    low = max(min(shown + ends), min(shown) - span) - room
    high = min(max(shown + ends), max(shown) + span) + room
    return [_row(*row, low, high) for row in rows], (low, high)


def _row(
    name: str, seeds: Sequence[SeedValue], mean: float, interval: tuple[float, float] | None, low: float, high: float
) -> Seeds:
    def place(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    between = f", 95 % interval {interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    return Seeds(
        name=name,
        dots=[place(one.value) for one in seeds],
        mean=place(mean),
        interval=(place(interval[0]), place(interval[1])) if interval else None,
        words=f"{name}: {mean:.4g} over {len(seeds)} seed{'s' * (len(seeds) != 1)}{between}",
    )
