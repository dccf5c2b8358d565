"""What a picture of a job is drawn from: the curves of some of its trials, and where good rates lie.

Small whatever the size of the job: `lrtune/store/charts.py` chooses the trials and thins their reports. The page and
every other picture are drawn from these.
"""

from typing import Annotated, Literal

from pydantic import PlainSerializer

from lrtune.wire.report import Findings, Plateau
from lrtune.wire.results import Result, Role, TrialState

# Five digits are finer than any screen, and halve what travels.
Short = Annotated[float, PlainSerializer(lambda value: float(f"{value:.5g}"))]
Part = Literal["winner", "baseline", "confirm", "running", "best", "recent", "stopped", "diverged"]


class Line(Result):
    """One trial to draw: its metric at `steps`, its rates as (step, rate), and why it is among those drawn."""

    number: int
    part: Part
    role: Role
    state: TrialState
    words: str
    value: Short | None
    horizon: int
    steps: list[int]
    values: list[Short | None]
    rates: list[tuple[int, Short]]


class Band(Result):
    """The trials that are not drawn one by one: at each step a tenth lies below `low`, half below `middle`.

    Read off a sample of `sampled` of them that completed the horizon; `trials` is how many there are in all.
    """

    trials: int
    sampled: int
    steps: list[int]
    low: list[Short]
    middle: list[Short]
    high: list[Short]


class Curves(Result):
    """A job's curves, few enough to draw: the winner, the baseline, the best, the newest, some stopped; the rest."""

    metric: str
    goal: Literal["minimize", "maximize"]
    steps: int | None
    trials: int
    lines: list[Line]
    rest: Band | None


class Point(Result):
    """A trial on the map of rates; `value` is null where it diverged.

    `fresh` is one over a fresh seed, whose value compares with those over the same seed only.
    """

    number: int
    rate: Short
    value: Short | None
    fresh: bool = False


class Series(Result):
    """One schedule family under one optimizer: its trials by rate, and the rates that do as well as the best."""

    optimizer: str
    family: str
    plateau: Plateau | None
    points: list[Point]


class Terrain(Result):
    """The map of rates with the report that explains it; of a large job, from its best trials and a sample.

    `trials` is how many there are, `sampled` how many of them it shows.
    """

    trials: int
    sampled: int
    series: list[Series]
    report: Findings
